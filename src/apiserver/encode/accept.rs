//! What the client wants to be answered with, from its Accept header.
#![deny(clippy::disallowed_methods)]

use http::{HeaderMap, header};

use crate::{request::Query, status::ApiError};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Yaml,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// Which view of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Object,
    Table,
    /// PartialObjectMetadata, or its list.
    Partial,
}

/// How a row of a Table carries its object (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub format: Format,
    pub shape: Shape,
    pub include: Include,
    /// The client takes gzip.
    pub gzip: bool,
}

const ACCEPTED: [&str; 2] = ["application/json", "application/yaml"];

impl Wanted {
    /// The first of the client's media types that we can make, by its weights.
    ///
    /// # Errors
    /// 406 when there is none; 400 for an unknown `includeObject`.
    pub fn read(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        let mut wanted = Self::of_accept(headers, |_| true)?;
        wanted.gzip = takes_gzip(headers);
        wanted.include = match query.get("includeObject") {
            None | Some("" | "Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                let quoted = crate::status::quote(other);
                let message = format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: {quoted}: must be 'Metadata', 'Object', 'None', or empty"
                );
                return Err(ApiError::bad_request(message));
            }
        };
        Ok(wanted)
    }

    /// Of what has no metadata, and so no form but its own.
    ///
    /// # Errors
    /// 406 when there is no media type that we can make.
    pub fn read_plain(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut wanted = Self::of_accept(headers, |wanted| wanted.shape == Shape::Object)?;
        wanted.gzip = takes_gzip(headers);
        Ok(wanted)
    }

    fn of_accept(headers: &HeaderMap, can_be_made: impl Fn(&Self) -> bool) -> Result<Self, ApiError> {
        let accept: Vec<&str> =
            headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let accept = accept.join(",");
        if accept.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut clauses: Vec<(f32, Option<Self>)> = accept.split(',').map(read_clause).collect();
        clauses.sort_by(|(a, _), (b, _)| b.total_cmp(a)); // stable: the client's order decides among equals
        let mut clauses = clauses.into_iter().filter(|(weight, _)| *weight > 0.0);
        clauses
            .find_map(|(_, wanted)| wanted.filter(&can_be_made))
            .ok_or_else(|| ApiError::not_acceptable(&ACCEPTED))
    }
}

/// One media type: its weight, and what it means if we can make it.
fn read_clause(clause: &str) -> (f32, Option<Wanted>) {
    let mut parts = clause.split(';').map(str::trim);
    let format = match parts.next() {
        Some("application/json" | "*/*" | "application/*") => Some(Format::Json),
        Some("application/yaml") => Some(Format::Yaml),
        _ => None,
    };
    let (mut weight, mut group, mut version, mut kind) = (1.0, "", "", "");
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "q" => weight = value.parse().unwrap_or(0.0),
            "as" => kind = value,
            "v" => version = value,
            "g" => group = value,
            _ => {}
        }
    }
    let shape = match (kind, group, version) {
        ("", _, _) => Some(Shape::Object),
        ("Table", "meta.k8s.io", "v1") => Some(Shape::Table),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Shape::Partial),
        _ => None,
    };
    let wanted = format.zip(shape).map(|(format, shape)| Wanted { format, shape, ..Wanted::default() });
    (weight, wanted)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|part| part != "q=0")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(accept: &str) -> Option<(Format, Shape)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().ok()?);
        Wanted::read(&headers, &Query::default()).ok().map(|wanted| (wanted.format, wanted.shape))
    }

    #[test]
    fn what_has_no_metadata_is_no_table() {
        let read = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            Wanted::read_plain(&headers).map(|wanted| wanted.shape).map_err(|error| error.code)
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(read(table).unwrap_err(), 406);
        assert_eq!(read(&format!("{table},application/json")).unwrap(), Shape::Object);
    }

    #[test]
    fn the_first_type_that_can_be_made_wins() {
        for (accept, expected) in [
            ("", Some((Format::Json, Shape::Object))),
            ("*/*", Some((Format::Json, Shape::Object))),
            ("application/yaml", Some((Format::Yaml, Shape::Object))),
            ("application/vnd.kubernetes.protobuf, */*", Some((Format::Json, Shape::Object))),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
            ("application/json;q=0.1, application/yaml", Some((Format::Yaml, Shape::Object))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some((Format::Json, Shape::Table)),
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json",
                Some((Format::Json, Shape::Object)),
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some((Format::Json, Shape::Partial)),
            ),
            ("application/json;stream=watch", Some((Format::Json, Shape::Object))),
        ] {
            assert_eq!(read(accept), expected, "{accept}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(accept in "[ -~]{0,60}") {
            read(&accept);
        }
    }
}
