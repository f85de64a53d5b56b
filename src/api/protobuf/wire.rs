//! The fields of a protobuf message, without knowing what they mean.
#![deny(clippy::disallowed_methods)]

use super::ProtobufError;

/// A field's value as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads fields in their order; ends after the first error.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0;
        // Ten bytes hold 64 bits; what the last has beyond that is lost, as in other decoders.
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(ProtobufError::Truncated)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed("a number of more than ten bytes"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>), ProtobufError> {
        let key = self.varint()?;
        let number =
            u32::try_from(key >> 3).map_err(|_| ProtobufError::Malformed("a field number out of range"))?;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.take(8)?.try_into().map_or(0, u64::from_le_bytes)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(self.take(4)?.try_into().map_or(0, u32::from_le_bytes)),
            _ => return Err(ProtobufError::Malformed("a field of a kind that Kubernetes does not use")),
        };
        Ok((number, value))
    }

    /// The numbers of a packed list.
    pub(super) fn packed(bytes: &'a [u8]) -> Result<Vec<u64>, ProtobufError> {
        let mut fields = Self::new(bytes);
        let mut numbers = Vec::new();
        while !fields.rest.is_empty() {
            numbers.push(fields.varint()?);
        }
        Ok(numbers)
    }

    /// The last value of a field, as protobuf wants it for fields that are no list.
    pub(super) fn last(self, wanted: u32) -> Result<Option<Wire<'a>>, ProtobufError> {
        let mut found = None;
        for field in self {
            let (number, value) = field?;
            if number == wanted {
                found = Some(value);
            }
        }
        Ok(found)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}
