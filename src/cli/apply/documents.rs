//! The objects of a YAML manifest.

use kube::api::DynamicObject;

/// Each document as an object; an error says what is missing in it. Empty documents are passed over.
pub(super) fn documents(text: &str) -> impl Iterator<Item = Result<DynamicObject, String>> + '_ {
    split(text).into_iter().filter(|document| !is_empty(document)).map(|document| parse(&document))
}

fn parse(document: &str) -> Result<DynamicObject, String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let object: DynamicObject = serde_saphyr::from_str_with_options(document, options)
        .map_err(|error| error.to_string().lines().next().unwrap_or("not valid YAML").to_string())?;
    if object.types.is_none() {
        return Err("apiVersion and kind must be given".to_string());
    }
    if object.metadata.name.is_none() {
        return Err("metadata.name must be given".to_string());
    }
    Ok(object)
}

/// Cut at lines that are `---`.
fn split(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line == "---" || line.starts_with("--- ") {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents
}

fn is_empty(document: &str) -> bool {
    document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_are_split_and_empty_ones_passed_over() {
        let text = "# a comment\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: b\n";
        let names: Vec<_> = documents(text).map(|object| object.unwrap().metadata.name.unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            documents("metadata: {name: a}\n").next().unwrap().unwrap_err(),
            "apiVersion and kind must be given"
        );
        assert_eq!(
            documents("apiVersion: v1\nkind: Pod\nmetadata: {}\n").next().unwrap().unwrap_err(),
            "metadata.name must be given"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[ -~\n]{0,200}") {
            documents(&text).for_each(drop);
        }
    }
}
