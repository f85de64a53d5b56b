//! The texts of types and fields. `build.rs` packs them from the `k8s-openapi` crate.

use std::{collections::HashMap, io::Read};

use flate2::read::DeflateDecoder;

const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));
const END: char = '\u{1f}';
const END_OF_TYPE: char = '\u{1e}';

pub(super) fn packed() -> &'static [u8] {
    PACKED
}

/// All texts, unpacked: 0.6 MB, to be dropped after use.
pub(super) struct Texts(String);

/// The texts of the types, by their OpenAPI names.
pub(super) struct Descriptions<'t> {
    types: HashMap<&'t str, Described<'t>>,
}

struct Described<'t> {
    text: &'t str,
    /// Names and texts in turn, each ended by `END`.
    fields: &'t str,
}

impl Texts {
    pub(super) fn unpack() -> Self {
        let mut text = String::new();
        // What the build has packed can be unpacked; without it the documents would only lack their texts.
        let unpacked = DeflateDecoder::new(PACKED).read_to_string(&mut text);
        debug_assert!(unpacked.is_ok(), "{unpacked:?}");
        Self(text)
    }

    pub(super) fn index(&self) -> Descriptions<'_> {
        let records = self.0.split_terminator(END_OF_TYPE).filter_map(|record| {
            let record = record.strip_suffix(END)?;
            let (name, rest) = record.split_once(END)?;
            let (text, fields) = rest.split_once(END).unwrap_or((rest, ""));
            Some((name, Described { text, fields }))
        });
        Descriptions { types: records.collect() }
    }
}

impl<'t> Descriptions<'t> {
    pub(super) fn of_type(&self, name: &str) -> Option<&'t str> {
        self.types.get(name).map(|found| found.text).filter(|text| !text.is_empty())
    }

    pub(super) fn of_field(&self, r#type: &str, field: &str) -> Option<&'t str> {
        let mut words = self.types.get(r#type)?.fields.split(END);
        while let (Some(name), Some(text)) = (words.next(), words.next()) {
            if name == field {
                return Some(text).filter(|text| !text.is_empty());
            }
        }
        None
    }
}
