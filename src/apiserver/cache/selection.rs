//! Which objects of a resource a list or a watch is about.
#![deny(clippy::disallowed_methods)]

use api::selector::{FieldSelector, Selector};

use super::entry::Header;
use crate::{
    registry::Resource,
    status::{ApiError, quote},
};

/// A namespace, labels and fields; everything by default.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Empty for all.
    pub namespace: String,
    /// Empty for all; else exactly this object.
    pub name: String,
    pub labels: Selector,
    pub fields: FieldSelector,
    /// For each requirement of `fields`, where its value is.
    sources: Vec<Source>,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Name,
    Namespace,
    Field(usize),
}

impl Selection {
    /// Everything in a namespace, or (empty) everything.
    pub fn in_namespace(namespace: &str) -> Self {
        Self { namespace: namespace.into(), ..Self::default() }
    }

    /// Reads the selectors of a request.
    ///
    /// # Errors
    /// 400 for a selector that cannot be parsed, or that names a field the resource does not offer.
    pub fn new(
        row: &Resource,
        namespace: &str,
        name: &str,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Self, ApiError> {
        let labels = match labels {
            None | Some("") => Selector::everything(),
            Some(text) => text.parse().map_err(|error| ApiError::bad_request(error_text(&error)))?,
        };
        let fields: FieldSelector = match fields {
            None | Some("") => FieldSelector::default(),
            Some(text) => text.parse().map_err(|error| ApiError::bad_request(error_text(&error)))?,
        };
        let sources = fields
            .requirements()
            .iter()
            .map(|requirement| source(row, &requirement.field))
            .collect::<Result<_, _>>()?;
        Ok(Self { namespace: namespace.into(), name: name.into(), labels, fields, sources })
    }

    pub fn matches(&self, header: &Header) -> bool {
        (self.namespace.is_empty() || *header.namespace == *self.namespace)
            && (self.name.is_empty() || *header.name == *self.name)
            && self.labels.matches(&header.labels)
            && self.fields_match(header)
    }

    fn fields_match(&self, header: &Header) -> bool {
        if self.sources.is_empty() {
            return true;
        }
        let requirements = self.fields.requirements();
        self.fields.matches(|field| {
            let at = requirements.iter().position(|requirement| requirement.field == field);
            match at.and_then(|at| self.sources.get(at)) {
                Some(Source::Name) => &header.name,
                Some(Source::Namespace) => &header.namespace,
                Some(Source::Field(index)) => header.fields.get(*index).map_or("", |value| value),
                None => "",
            }
        })
    }

    /// Whether labels or fields narrow it down (namespace and name do not count).
    pub fn has_selectors(&self) -> bool {
        !self.labels.is_everything() || !self.fields.is_everything()
    }
}

fn error_text(error: &dyn std::error::Error) -> String {
    error.to_string()
}

fn source(row: &Resource, field: &str) -> Result<Source, ApiError> {
    match field {
        "metadata.name" => return Ok(Source::Name),
        "metadata.namespace" if row.is_namespaced() || row.fields.is_empty() => return Ok(Source::Namespace),
        _ => {}
    }
    let index = row.fields.iter().position(|known| known.label == field);
    index.map(Source::Field).ok_or_else(|| {
        let message = if row.fields.is_empty() {
            let quoted = quote(field);
            format!("{quoted} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        } else {
            format!("field label not supported: {field}")
        };
        ApiError::bad_request(message)
    })
}
