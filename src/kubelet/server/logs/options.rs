//! What of a log is wanted. No IO.
#![deny(clippy::disallowed_methods)]

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use super::super::query::Query;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub(super) follow: bool,
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    /// So many lines from the end; all without.
    pub(super) tail: Option<u64>,
    pub(super) since: Option<Timestamp>,
    pub(super) limit: Option<u64>,
    pub(super) wanted: Wanted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wanted {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// A query that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    Syntax,
    Value,
}

impl Invalid {
    pub(super) fn code(self) -> StatusCode {
        match self {
            Invalid::Syntax => StatusCode::BAD_REQUEST,
            Invalid::Value => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Invalid::Syntax => r#"{"message": "Unable to decode query."}"#,
            Invalid::Value => r#"{"message": "Invalid request."}"#,
        }
    }
}

impl LogOptions {
    pub(super) fn read(query: &Query, now: Timestamp) -> Result<LogOptions, Invalid> {
        let number = |key: &str, least: i64| -> Result<Option<u64>, Invalid> {
            let Some(text) = query.get(key) else { return Ok(None) };
            let value: i64 = text.parse().map_err(|_| Invalid::Syntax)?;
            if value < least {
                return Err(Invalid::Value);
            }
            Ok(Some(value.unsigned_abs()))
        };
        // An older name, whose "all" is the default.
        let tail = match query.get("tail") {
            None => number("tailLines", 0)?,
            Some("all" | "") => None,
            Some(_) => number("tail", 0)?,
        };
        let seconds = number("sinceSeconds", 1)?;
        let time = query.get("sinceTime").map(|text| text.parse::<Timestamp>().map_err(|_| Invalid::Syntax));
        let since = match (seconds, time.transpose()?) {
            (Some(_), Some(_)) => return Err(Invalid::Value),
            (Some(seconds), None) => {
                let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                Some(now.checked_sub(ago).unwrap_or(Timestamp::MIN))
            }
            (None, time) => time,
        };
        let wanted = match query.get("stream") {
            None | Some("All") => Wanted::All,
            Some("Stdout") => Wanted::Stdout,
            Some("Stderr") => Wanted::Stderr,
            Some(_) => return Err(Invalid::Value),
        };
        if wanted != Wanted::All && tail.is_some() {
            return Err(Invalid::Value);
        }
        Ok(LogOptions {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail,
            since,
            limit: number("limitBytes", 1)?,
            wanted,
        })
    }
}
