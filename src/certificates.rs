//! Keeps the certificates young that this process signs for itself, without a restart and without dropping a connection.
//! A node that has joined asks for its certificates instead: `src/join/rotation.rs`. Those that somebody else renews are
//! read again.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use lifecycle::{BoxError, Scope};
use pki::{Directory, Profile, tls::Serving};
use tracing::{info, warn};

use crate::identity::AdminKubeconfig;

/// A clock that was set, or a file that was put back, is noticed at the latest after this.
const LOOK_AGAIN: Duration = Duration::from_secs(12 * 3600);

/// Files that somebody else renews are looked at this often.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// A certificate in use, and what it is made from.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) profile: Profile,
    pub(crate) by: By,
}

/// Who shows it.
#[derive(Clone, Debug)]
pub(crate) enum By {
    /// This process, to whoever connects from now on.
    Process(Arc<Serving>),
    /// A person with this kubeconfig.
    Kubeconfig(AdminKubeconfig),
}

/// Renews what is due, until `scope` is cancelled.
pub(crate) async fn renew(
    directory: Arc<Directory>,
    shown: Vec<Shown>,
    scope: Scope,
) -> Result<(), BoxError> {
    loop {
        let now = Timestamp::now();
        let mut wait = LOOK_AGAIN;
        for Shown { profile, by } in &shown {
            // The stored one while it is young enough, else a new one.
            let issued = directory.ensure(profile, now)?;
            match by {
                By::Process(serving) => serving.replace(&issued)?,
                By::Kubeconfig(kubeconfig) => kubeconfig.write(&directory, &issued)?,
            }
            let due = pki::renewal_time(&issued.certificate);
            wait = wait.min(Duration::try_from(due.duration_since(now)).unwrap_or_default());
            info!(certificate = profile.file_stem(), renewed_at = %due, "certificate is in use");
        }
        tokio::select! {
            () = scope.cancelled() => return Ok(()),
            // Never in a tight loop, whatever the clock says.
            () = tokio::time::sleep(wait.max(Duration::from_secs(60))) => {}
        }
    }
}

/// Shows what the files hold, also when somebody changes them, until `scope` is cancelled.
pub(crate) async fn reread(
    certificate: PathBuf,
    key: PathBuf,
    serving: Arc<Serving>,
    scope: Scope,
) -> Result<(), BoxError> {
    let read = async || -> io::Result<(Vec<u8>, Vec<u8>)> {
        Ok((tokio::fs::read(&certificate).await?, tokio::fs::read(&key).await?))
    };
    let mut shown = read().await.ok();
    loop {
        tokio::select! {
            () = scope.cancelled() => return Ok(()),
            () = tokio::time::sleep(READ_AGAIN) => {}
        }
        let texts = match read().await {
            Ok(texts) => texts,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(certificate = %certificate.display(), error, "the serving certificate cannot be read");
                continue;
            }
        };
        if shown.as_ref() == Some(&texts) {
            continue;
        }
        match serving.replace_pem(&texts.0, &texts.1) {
            Ok(()) => {
                info!(certificate = %certificate.display(), "serving certificate is in use");
                shown = Some(texts);
            }
            // One of the two may be written before the other: what was shown is shown on.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(certificate = %certificate.display(), error, "the serving certificate cannot be used");
            }
        }
    }
}
