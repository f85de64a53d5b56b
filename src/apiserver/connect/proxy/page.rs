//! The links of a web page that comes through a proxy. No IO.
//!
//! Not a parser of HTML: it finds the tags that have links, changes their values in place, and copies all else as it is.
#![deny(clippy::disallowed_methods)]

/// Which attributes of which tags are links (HTML 4.01's index of attributes, and HTML5's media).
const LINKS: [(&str, &[&str]); 26] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
];
/// What stands in these is no markup.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// The page with every link replaced by what `rewrite` makes of it.
pub(super) fn with_links(page: &[u8], rewrite: impl Fn(&str) -> String) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + page.len() / 8);
    let mut at = 0;
    while let Some(start) = find(page, at, b"<") {
        out.extend_from_slice(&page[at..start]);
        let end = if page[start..].starts_with(b"<!--") {
            find(page, start, b"-->").map_or(page.len(), |end| end + 3)
        } else if page.get(start + 1).is_some_and(u8::is_ascii_alphabetic) {
            let tag = Tag::read(page, start);
            tag.write(page, &rewrite, &mut out);
            let end = tag.end;
            at = if RAW.contains(&tag.name.as_str()) { end_of_raw(page, end, &tag.name) } else { end };
            out.extend_from_slice(&page[end..at]);
            continue;
        } else {
            start + 1
        };
        out.extend_from_slice(&page[start..end]);
        at = end;
    }
    out.extend_from_slice(&page[at..]);
    out
}

/// Where in the page a tag stands, and its attributes' values.
struct Tag {
    name: String,
    start: usize,
    end: usize,
    /// Name, and the range of the value without its quotes.
    attributes: Vec<(String, std::ops::Range<usize>)>,
}

impl Tag {
    fn read(page: &[u8], start: usize) -> Tag {
        let name_end =
            end_of(page, start + 1, |byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>'));
        let mut tag =
            Tag { name: lower(&page[start + 1..name_end]), start, end: name_end, attributes: Vec::new() };
        loop {
            let at = end_of(page, tag.end, |byte| !byte.is_ascii_whitespace() && byte != b'/');
            match page.get(at) {
                None => return Tag { end: at, ..tag },
                Some(b'>') => return Tag { end: at + 1, ..tag },
                Some(_) => tag.attribute(page, at),
            }
        }
    }

    fn attribute(&mut self, page: &[u8], start: usize) {
        let ends = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'=');
        // A stray `=` begins a name, so that every turn gets further.
        let name_end = end_of(page, start + 1, ends);
        let equals = end_of(page, name_end, |byte| !byte.is_ascii_whitespace());
        if page.get(equals) != Some(&b'=') {
            self.end = name_end;
            return;
        }
        let value = end_of(page, equals + 1, |byte| !byte.is_ascii_whitespace());
        let (value, end) = match page.get(value) {
            Some(quote @ (b'"' | b'\'')) => {
                let end = end_of(page, value + 1, |byte| byte == *quote);
                (value + 1..end, (end + 1).min(page.len()))
            }
            _ => {
                let end = end_of(page, value, |byte| byte.is_ascii_whitespace() || byte == b'>');
                (value..end, end)
            }
        };
        self.attributes.push((lower(&page[start..name_end]), value));
        self.end = end;
    }

    fn write(&self, page: &[u8], rewrite: impl Fn(&str) -> String, out: &mut Vec<u8>) {
        let links = LINKS.iter().find(|(tag, _)| *tag == self.name).map_or(&[][..], |(_, links)| links);
        let mut at = self.start;
        for (_, range) in self.attributes.iter().filter(|(name, _)| links.contains(&name.as_str())) {
            let Ok(link) = std::str::from_utf8(&page[range.clone()]) else { continue };
            out.extend_from_slice(&page[at..range.start]);
            out.extend_from_slice(rewrite(link).as_bytes());
            at = range.end;
        }
        out.extend_from_slice(&page[at..self.end]);
    }
}

/// Where the end tag of `name` begins, from `at` on.
fn end_of_raw(page: &[u8], at: usize, name: &str) -> usize {
    let mut from = at;
    while let Some(start) = find(page, from, b"</") {
        let named = page.get(start + 2..start + 2 + name.len());
        if named.is_some_and(|named| named.eq_ignore_ascii_case(name.as_bytes())) {
            return start;
        }
        from = start + 2;
    }
    page.len()
}

fn find(page: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    page.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| from + at)
}

/// The first place from `from` on at which `ends` holds, or the page's end.
fn end_of(page: &[u8], from: usize, ends: impl Fn(u8) -> bool) -> usize {
    let from = from.min(page.len());
    page[from..].iter().position(|byte| ends(*byte)).map_or(page.len(), |at| from + at)
}

fn lower(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewritten(page: &str) -> String {
        String::from_utf8(with_links(page.as_bytes(), |link| format!("/p{link}"))).unwrap()
    }

    #[test]
    fn links_are_changed_and_all_else_stays() {
        for (page, expected) in [
            (r#"<a href="/x">test</a>"#, r#"<a href="/p/x">test</a>"#),
            ("<A CLASS=c HREF = '/x' id=1>", "<A CLASS=c HREF = '/p/x' id=1>"),
            ("<img src=/x.png alt=y/>", "<img src=/p/x.png alt=y/>"),
            ("<link rel=s href=/x><br/><p title='/x'>", "<link rel=s href=/p/x><br/><p title='/x'>"),
            ("<!-- <a href='/x'> --><a href='/y'>", "<!-- <a href='/x'> --><a href='/p/y'>"),
            (
                "<script src='/s'>'<a href=\"/x\">'</script><a href=/y>",
                "<script src='/p/s'>'<a href=\"/x\">'</script><a href=/p/y>",
            ),
            ("1 < 2 <a", "1 < 2 <a"),
            ("<a href", "<a href"),
            ("<a href='/x", "<a href='/p/x"),
            ("<a b=c =d href=/x>", "<a b=c =d href=/p/x>"),
            ("", ""),
        ] {
            assert_eq!(rewritten(page), expected, "{page}");
        }
    }

    proptest! {
        #[test]
        fn a_page_whose_links_stay_is_the_same_page(page in "([<>/='\" a-z!-]|<a href=|<script>|</script>|<!--|-->){0,40}") {
            prop_assert_eq!(with_links(page.as_bytes(), str::to_owned), page.as_bytes());
        }
    }
}
