//! The little DER that rcgen cannot write: a subject with several organizations, a CSR's subject as it came, and private
//! keys of older forms in the one that ring reads.
//!
//! rcgen keeps one value for each attribute type, but a user's groups are several `O`s. So a certificate is made
//! with a placeholder subject, and the placeholder is replaced in the part that is then signed.
#![deny(clippy::disallowed_methods)]

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
/// Where a SEC1 key names its curve: the parameters, tagged [0].
const PARAMETERS: u8 = 0xa0;
/// Version 0, and the algorithms of a PKCS#8 key (RFC 5208, RFC 5480, RFC 8017).
const VERSION: [u8; 3] = [0x02, 0x01, 0x00];
const EC_PUBLIC_KEY: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA_ENCRYPTION: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const NULL: [u8; 2] = [0x05, 0x00];
/// Where the subject stands in a version 3 TBSCertificate: version, serial, algorithm, issuer, validity, subject.
const SUBJECT_INDEX: usize = 5;
/// ... and in a request's signed part: version, subject.
const REQUEST_SUBJECT_INDEX: usize = 1;
/// Both are a signed part, the algorithm, the signature.
const ALGORITHM_INDEX: usize = 1;

/// An X.501 name of one `CN` after any number of `O`s, in UTF-8.
pub(crate) fn name(common_name: &str, organizations: &[String]) -> Vec<u8> {
    let organization = organizations.iter().map(|value| attribute(&[0x55, 0x04, 0x0a], value));
    let attributes: Vec<u8> =
        organization.chain([attribute(&[0x55, 0x04, 0x03], common_name)]).flatten().collect();
    element(SEQUENCE, &attributes)
}

fn attribute(oid: &[u8], value: &str) -> Vec<u8> {
    let pair = [element(OID, oid), element(UTF8_STRING, value.as_bytes())].concat();
    element(SET, &element(SEQUENCE, &pair))
}

/// The signed part of a certificate, with another subject. `None` if this is no version 3 certificate.
pub(crate) fn with_subject(certificate: &[u8], subject: &[u8]) -> Option<Vec<u8>> {
    with_field(certificate, SUBJECT_INDEX, subject)
}

/// The signed part of a signing request, with another subject.
pub(crate) fn with_request_subject(request: &[u8], subject: &[u8]) -> Option<Vec<u8>> {
    with_field(request, REQUEST_SUBJECT_INDEX, subject)
}

fn with_field(signed: &[u8], index: usize, value: &[u8]) -> Option<Vec<u8>> {
    let (_, parts, _) = split(signed)?;
    let (_, body, _) = split(parts)?;
    let mut fields = children(body)?;
    *fields.get_mut(index)? = value;
    Some(element(SEQUENCE, &fields.concat()))
}

/// A certificate or request like `draft`, with another signed part and the signature over it.
pub(crate) fn assemble(draft: &[u8], body: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
    let (_, parts, _) = split(draft)?;
    let algorithm = *children(parts)?.get(ALGORITHM_INDEX)?;
    let bits = element(BIT_STRING, &[&[0], signature].concat()); // no unused bits
    Some(element(SEQUENCE, &[body, algorithm, &bits].concat()))
}

/// A SEC1 key (`BEGIN EC PRIVATE KEY`) as PKCS#8. `None` if it does not name its curve.
pub(crate) fn pkcs8_of_sec1(key: &[u8]) -> Option<Vec<u8>> {
    let (_, parts, _) = split(key)?;
    let parameters = children(parts)?.into_iter().find(|part| part.first() == Some(&PARAMETERS))?;
    let (_, curve, _) = split(parameters)?;
    Some(pkcs8(&EC_PUBLIC_KEY, curve, key))
}

/// A PKCS#1 key (`BEGIN RSA PRIVATE KEY`) as PKCS#8.
pub(crate) fn pkcs8_of_pkcs1(key: &[u8]) -> Vec<u8> {
    pkcs8(&RSA_ENCRYPTION, &NULL, key)
}

fn pkcs8(algorithm: &[u8], parameters: &[u8], key: &[u8]) -> Vec<u8> {
    let algorithm = element(SEQUENCE, &[&element(OID, algorithm), parameters].concat());
    element(SEQUENCE, &[&VERSION[..], &algorithm, &element(OCTET_STRING, key)].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let length = content.len();
    if length < 0x80 {
        bytes.push(length as u8);
    } else {
        let big_endian = length.to_be_bytes();
        let significant = &big_endian[big_endian.iter().take_while(|byte| **byte == 0).count()..];
        bytes.push(0x80 | significant.len() as u8);
        bytes.extend(significant);
    }
    bytes.extend(content);
    bytes
}

/// The first element of `bytes`: the whole of it, its content, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let first = usize::from(*bytes.get(1)?);
    let (header, length) = if first < 0x80 {
        (2, first)
    } else {
        let count = first & 0x7f;
        if !(1..=4).contains(&count) {
            return None;
        }
        let length = bytes.get(2..2 + count)?.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
        (2 + count, length)
    };
    let end = header.checked_add(length)?;
    Some((bytes.get(..end)?, bytes.get(header..end)?, bytes.get(end..)?))
}

fn children(mut content: &[u8]) -> Option<Vec<&[u8]>> {
    let mut children = Vec::new();
    while !content.is_empty() {
        let (whole, _, rest) = split(content)?;
        children.push(whole);
        content = rest;
    }
    Some(children)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_element_of_any_length_splits_into_itself(content in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let whole = element(SEQUENCE, &content);
            let (all, inner, rest) = split(&whole).unwrap();
            prop_assert_eq!(all, &whole[..]);
            prop_assert_eq!(inner, &content[..]);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = children(&bytes);
            let _ = with_subject(&bytes, &[]);
            let _ = assemble(&bytes, &[], &[]);
            let _ = pkcs8_of_sec1(&bytes);
        }
    }
}
