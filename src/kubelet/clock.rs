//! The time of day, so that simulations can have their own.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    pub fn system() -> Clock {
        Clock(Arc::new(Timestamp::now))
    }

    /// Follows tokio's clock, which tests may pause, from `start` on.
    pub fn following_tokio(start: Timestamp) -> Clock {
        let began = tokio::time::Instant::now();
        Clock(Arc::new(move || {
            let elapsed =
                jiff::SignedDuration::try_from(began.elapsed()).unwrap_or(jiff::SignedDuration::MAX);
            start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
        }))
    }

    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
