//! Creates what is missing and repairs what differs. One failure does not hide the rest.

use serde_json::Value;

use crate::registry::{Objects, Precondition};
use crate::status::{ApiError, GroupResource, Reason};

/// An object that has to be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub what: GroupResource,
    pub object: Value,
    /// Existing, wanted: what the existing one has to become. `None` leaves it as it is.
    pub repair: fn(&Value, &Value) -> Option<Value>,
}

impl Wanted {
    /// An object of which only the existence matters: what a user made of it stays.
    pub fn existing(what: GroupResource, object: Value) -> Self {
        Self { what, object, repair: |_, _| None }
    }
}

/// What [`ensure`] did.
#[derive(Debug, Default)]
pub struct Ensured {
    pub created: usize,
    pub repaired: usize,
    /// By object, in words.
    pub failed: Vec<(String, ApiError)>,
}

/// Does it for each object in order.
pub async fn ensure(objects: &dyn Objects, wanted: &[Wanted]) -> Ensured {
    let mut ensured = Ensured::default();
    for one in wanted {
        match ensure_one(objects, one).await {
            Ok(Outcome::Kept) => {}
            Ok(Outcome::Created) => ensured.created += 1,
            Ok(Outcome::Repaired) => ensured.repaired += 1,
            Err(error) => {
                let name = one.object["metadata"]["name"].as_str().unwrap_or_default();
                ensured.failed.push((format!("{} {name}", one.what), error));
            }
        }
    }
    ensured
}

enum Outcome {
    Kept,
    Created,
    Repaired,
}

async fn ensure_one(objects: &dyn Objects, wanted: &Wanted) -> Result<Outcome, ApiError> {
    let text = |field: &str| wanted.object["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let existing = match objects.get(&wanted.what, namespace, name).await {
        Ok(existing) => existing,
        Err(error) if error.reason == Reason::NotFound => {
            match objects.create(&wanted.what, wanted.object.clone()).await {
                Ok(_) => return Ok(Outcome::Created),
                // Another server of the cluster was first.
                Err(error) if error.reason == Reason::AlreadyExists => {
                    objects.get(&wanted.what, namespace, name).await?
                }
                Err(error) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    if (wanted.repair)(&existing, &wanted.object).is_none() {
        return Ok(Outcome::Kept);
    }
    let mut change = |object: &mut Value| {
        if let Some(repaired) = (wanted.repair)(object, &wanted.object) {
            *object = repaired;
        }
        Ok(())
    };
    objects.update(&wanted.what, namespace, name, Precondition::default(), &mut change).await?;
    Ok(Outcome::Repaired)
}
