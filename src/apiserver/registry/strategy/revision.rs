//! ControllerRevisions: what a template was like before, for those who go back to it.

use super::at::same;
use super::findings::IMMUTABLE;
use super::rules::Rules;

pub const CONTROLLER_REVISIONS: Rules = Rules {
    validate: |revision, found| found.not_negative(&revision.get("revision")),
    validate_create: |revision, found| {
        let data = revision.get("data");
        if !data.present() {
            found.required(&data, "data is mandatory");
        } else if !data.value().is_object() {
            found.required(&data, "data must be a valid JSON object");
        }
    },
    validate_update: |new, old, found| {
        let (now, then) = (new.get("data"), old.get("data"));
        if !same(now.value(), then.value()) {
            found.invalid(&now, IMMUTABLE);
        }
    },
    ..Rules::NONE
};
