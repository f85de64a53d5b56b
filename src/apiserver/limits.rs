//! How many requests may be under way at once: upstream's `--max-requests-inflight` and
//! `--max-mutating-requests-inflight`.
//!
//! One caller with many connections must not take the memory that store and kubelet live on. Watches and connections
//! into pods are not counted (they last), nor are health pages, components of this process and administrators, who
//! have to get through when nobody else does.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    request::RequestInfo,
    status::ApiError,
    user::{MASTERS, UserInfo},
};

const READS: usize = 400;
const WRITES: usize = 200;

/// Requests under way.
#[derive(Debug)]
pub(crate) struct Limits {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(READS, WRITES)
    }
}

impl Limits {
    fn new(reads: usize, writes: usize) -> Self {
        Self { reads: Arc::new(Semaphore::new(reads)), writes: Arc::new(Semaphore::new(writes)) }
    }

    /// Counts one request until what is returned is dropped.
    ///
    /// # Errors
    /// 429 with a `Retry-After` where too many are under way already.
    pub(crate) fn enter(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
    ) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if !info.is_resource || info.lasts() || user.in_group(MASTERS) {
            return Ok(None);
        }
        let of_its_kind = if info.is_readonly() { &self.reads } else { &self.writes };
        let permit = Arc::clone(of_its_kind).try_acquire_owned();
        permit
            .map(Some)
            .map_err(|_| ApiError::too_many_requests("too many requests, please try again later", 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    fn info(method: &str, path: &str) -> RequestInfo {
        request::parse(&method.parse().unwrap(), &path.parse().unwrap()).unwrap()
    }

    #[test]
    fn reads_and_writes_are_counted_apart_and_the_one_too_many_is_told_when_to_come_back() {
        let limits = Limits::new(1, 1);
        let user = UserInfo::new("a", &[]);
        let (read, write) = (info("GET", "/api/v1/pods"), info("POST", "/api/v1/namespaces/a/pods"));
        let first = limits.enter(&user, &read).unwrap();
        let refused = limits.enter(&user, &read).unwrap_err();
        assert_eq!((refused.code.as_u16(), refused.retry_after_secs), (429, Some(1)));
        assert!(limits.enter(&user, &write).is_ok());
        drop(first);
        assert!(limits.enter(&user, &read).is_ok());
    }

    #[test]
    fn watches_health_pages_and_administrators_are_not_counted() {
        let limits = Limits::new(0, 0);
        let (user, admin) = (UserInfo::new("a", &[]), UserInfo::new("root", &[MASTERS]));
        for path in ["/api/v1/pods?watch=true", "/api/v1/namespaces/a/pods/b/log?follow=true", "/livez"] {
            assert!(limits.enter(&user, &info("GET", path)).is_ok(), "{path}");
        }
        assert!(limits.enter(&admin, &info("POST", "/api/v1/namespaces/a/pods")).is_ok());
        assert!(limits.enter(&user, &info("GET", "/api/v1/pods")).is_err());
    }
}
