//! Which slices there are to be, and what their properties say.
#![deny(clippy::disallowed_methods)]

use crate::{
    cgroups::{
        Version,
        plan::{Limits, PERIOD_US, weight},
    },
    dbus::message::{Property, Value},
};

/// systemd's word for "no limit".
const INFINITY: u64 = u64::MAX;
const SECOND_US: i64 = 1_000_000;
/// systemd keeps quotas in hundredths of a processor; upstream rounds up to that, so that no pod gets less.
const QUOTA_STEP_US: u64 = 10_000;

/// What only the start of a slice can say.
pub(super) fn start(description: &str) -> Vec<Property> {
    vec![
        ("Description", Value::Text(description.into())),
        // Otherwise systemd would stop it at the beginning of a shutdown, with the pods in it; they end in our order.
        ("DefaultDependencies", Value::Bool(false)),
        ("CPUAccounting", Value::Bool(true)),
        ("MemoryAccounting", Value::Bool(true)),
        ("TasksAccounting", Value::Bool(true)),
        ("IOAccounting", Value::Bool(true)),
    ]
}

/// The limits, also those that are not there: a limit may have been taken away.
pub(super) fn limits(version: Version, limits: &Limits) -> Vec<Property> {
    let mut all = Vec::new();
    let (memory, share) = match version {
        Version::V2 => ("MemoryMax", limits.cpu_shares.map(|it| ("CPUWeight", weight(it)))),
        Version::V1 => ("MemoryLimit", limits.cpu_shares.map(|it| ("CPUShares", it))),
    };
    all.extend(share.map(|(name, value)| (name, number(Some(value)))));
    let quota = limits.cpu_quota_us.map(|it| it.saturating_mul(SECOND_US) / PERIOD_US);
    let quota = match number(quota) {
        Value::Number(INFINITY) => INFINITY,
        Value::Number(quota) => quota.next_multiple_of(QUOTA_STEP_US),
        _ => INFINITY,
    };
    all.push(("CPUQuotaPerSecUSec", Value::Number(quota)));
    all.push((memory, number(limits.memory_bytes)));
    all.push(("TasksMax", number(limits.pids)));
    all
}

fn number(value: Option<i64>) -> Value {
    Value::Number(value.and_then(|it| u64::try_from(it).ok()).unwrap_or(INFINITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_limited_is_said_to_be_unlimited() {
        let pod = Limits { cpu_shares: Some(1024), memory_bytes: Some(1 << 20), ..Limits::default() };
        let expected = [
            ("CPUWeight", Value::Number(100)),
            ("CPUQuotaPerSecUSec", Value::Number(INFINITY)),
            ("MemoryMax", Value::Number(1 << 20)),
            ("TasksMax", Value::Number(INFINITY)),
        ];
        assert_eq!(limits(Version::V2, &pod), expected);
    }

    #[test]
    fn a_quota_is_per_second_and_rounded_up_to_hundredths_of_a_processor() {
        let pod = Limits { cpu_quota_us: Some(2_500), pids: Some(7), ..Limits::default() };
        let found = limits(Version::V1, &pod);
        assert_eq!(found[0], ("CPUQuotaPerSecUSec", Value::Number(30_000)));
        assert_eq!(found[2], ("TasksMax", Value::Number(7)));
    }
}
