//! Resources as whole numbers: what filters and scores compare a million times a second.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use api::{
    constants::resource::{CPU, EPHEMERAL_STORAGE, MEMORY, PODS},
    pods::Resources,
};

/// Amounts of resources. A pod's slot is not one of them: see [`crate::NodeInfo`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub milli_cpu: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
    /// Huge pages and extended resources.
    pub other: BTreeMap<String, i64>,
}

impl Amounts {
    pub fn of(resources: &Resources) -> Amounts {
        let mut amounts = Amounts::default();
        for (name, quantity) in resources {
            match name.as_str() {
                CPU => amounts.milli_cpu = quantity.milli_value(),
                MEMORY => amounts.memory_bytes = quantity.value(),
                EPHEMERAL_STORAGE => amounts.ephemeral_storage_bytes = quantity.value(),
                PODS => {}
                _ => {
                    amounts.other.insert(name.clone(), quantity.value());
                }
            }
        }
        amounts
    }

    pub fn add(&mut self, more: &Amounts) {
        self.combine(more, i64::saturating_add);
    }

    pub fn subtract(&mut self, less: &Amounts) {
        self.combine(less, i64::saturating_sub);
        self.other.retain(|_, amount| *amount != 0);
    }

    pub fn other(&self, name: &str) -> i64 {
        self.other.get(name).copied().unwrap_or_default()
    }

    /// Whether nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory_bytes == 0
            && self.ephemeral_storage_bytes == 0
            && self.other.values().all(|amount| *amount == 0)
    }

    fn combine(&mut self, with: &Amounts, how: fn(i64, i64) -> i64) {
        self.milli_cpu = how(self.milli_cpu, with.milli_cpu);
        self.memory_bytes = how(self.memory_bytes, with.memory_bytes);
        self.ephemeral_storage_bytes = how(self.ephemeral_storage_bytes, with.ephemeral_storage_bytes);
        for (name, amount) in &with.other {
            let held = self.other.entry(name.clone()).or_default();
            *held = how(*held, *amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_can_be_taken_away() {
        let resources = Resources::from(
            [("cpu", "1500m"), ("memory", "1Gi"), ("pods", "9"), ("example.com/gpu", "2")]
                .map(|(name, text)| (name.to_string(), text.parse().unwrap())),
        );
        let amounts = Amounts::of(&resources);
        assert_eq!(
            (amounts.milli_cpu, amounts.memory_bytes, amounts.other("example.com/gpu")),
            (1500, 1 << 30, 2)
        );
        let mut sum = amounts.clone();
        sum.add(&amounts);
        sum.subtract(&amounts);
        assert_eq!(sum, amounts);
        sum.subtract(&amounts);
        assert_eq!(sum, Amounts::default());
        assert!(sum.is_zero() && !amounts.is_zero());
    }
}
