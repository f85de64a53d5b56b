//! Image names: the default tag, the default policy, and what is no name at all.
#![deny(clippy::disallowed_methods)]

/// `busybox` → `busybox:latest`; a name with a tag or digest stays. `None` for what no registry could hold.
pub(super) fn with_tag(name: &str) -> Option<String> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let (path, tag) = split_tag(rest);
    if !is_path(path) || tag.is_some_and(|tag| !is_tag(tag)) || digest.is_some_and(|it| !is_digest(it)) {
        return None;
    }
    Some(if tag.is_some() || digest.is_some() { name.to_string() } else { format!("{name}:latest") })
}

/// What an unset `imagePullPolicy` means.
pub fn default_policy(name: &str) -> &'static str {
    let untagged = !name.contains('@') && matches!(split_tag(name).1, None | Some("latest"));
    if untagged { "Always" } else { "IfNotPresent" }
}

/// A colon after the last slash begins a tag; one before it, a port.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    match name[slash..].rfind(':') {
        Some(at) => (&name[..slash + at], Some(&name[slash + at + 1..])),
        None => (name, None),
    }
}

fn is_path(path: &str) -> bool {
    let mut parts = path.split('/').peekable();
    let Some(first) = parts.next() else { return false };
    let has_more = parts.peek().is_some();
    let is_host = has_more
        && (first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase));
    let host_ok = |host: &str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c))
    };
    (if is_host { host_ok(first) } else { is_component(first) }) && parts.all(is_component)
}

/// Lower-case letters and digits, parted by `.`, `_`, `__` or dashes.
fn is_component(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(inner)
        && part.ends_with(inner)
        && part.chars().all(|c| inner(c) || "._-".contains(c))
        && !part.contains("..")
        && !part.contains("___")
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.starts_with(word) && tag.len() <= 128 && tag.chars().all(|c| word(c) || ".-".contains(c))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_default_tag_and_nonsense_is_refused() {
        for (name, expected) in [
            ("busybox", Some("busybox:latest")),
            ("busybox:1", Some("busybox:1")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            (
                "registry.k8s.io/e2e-test-images/busybox:1.37.0-1",
                Some("registry.k8s.io/e2e-test-images/busybox:1.37.0-1"),
            ),
            ("Busybox", None),
            ("a//b", None),
            ("a:b:c", None),
            ("a b", None),
            ("", None),
            ("x@sha256:zz", None),
        ] {
            assert_eq!(with_tag(name).as_deref(), expected, "{name}");
        }
        assert_eq!(default_policy("a:5000/b"), "Always");
        assert_eq!(default_policy("b:1"), "IfNotPresent");
    }
}
