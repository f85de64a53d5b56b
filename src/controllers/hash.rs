//! Short stable names for content: FNV-1a in the alphabet that upstream uses for generated names.
#![deny(clippy::disallowed_methods)]

/// No vowels and nothing that looks like one: no words come out by accident.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub(crate) fn fnv1a(parts: &[&[u8]]) -> u32 {
    let mut hash = 0x811c_9dc5_u32;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash
}

/// The decimal digits of `hash` in the safe alphabet.
pub(crate) fn safe(hash: u32) -> String {
    hash.to_string().bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_fnv_and_names_are_safe() {
        assert_eq!(fnv1a(&[b"a"]), 0xe40c_292c);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0xbf9c_f968);
        assert!(safe(4_294_967_295).bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
