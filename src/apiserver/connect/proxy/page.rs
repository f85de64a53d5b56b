//! The links of a web page that comes through a proxy. No IO.
//!
//! Not a parser of HTML: it finds the tags that have links, changes their values in place, and copies all else as it is.
#![deny(clippy::disallowed_methods)]

use std::ops::Range;

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

/// The page with every link replaced by what `rewrite` makes of it. `None`: that would be more than `most` bytes.
pub(super) fn with_links(page: &[u8], most: usize, rewrite: impl Fn(&str) -> String) -> Option<Vec<u8>> {
    let mut out = Out { page, copied: 0, made: Vec::with_capacity(page.len()), most };
    let mut at = 0;
    while let Some(start) = find(page, at, b"<") {
        at = if page[start..].starts_with(b"<!--") {
            find(page, start, b"-->").map_or(page.len(), |end| end + 3)
        } else if page.get(start + 1).is_some_and(u8::is_ascii_alphabetic) {
            tag(&mut out, start + 1, &rewrite)?
        } else {
            start + 1
        };
    }
    out.whole()
}

/// Rewrites the links of the tag whose name begins at `start`. Gives where what follows it begins.
fn tag(out: &mut Out<'_>, start: usize, rewrite: impl Fn(&str) -> String) -> Option<usize> {
    let page = out.page;
    let name = &page[start..end_of(page, start, ends_name)];
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    let links = LINKS.iter().find(|(tag, _)| is(tag)).map_or(&[][..], |(_, links)| links);
    let mut attributes = Attributes { page, at: start + name.len() };
    while let Some((name, range)) = attributes.following() {
        if !links.iter().any(|link| name.eq_ignore_ascii_case(link.as_bytes())) {
            continue;
        }
        if let Ok(link) = std::str::from_utf8(&page[range.clone()]) {
            out.replace(range, &rewrite(link))?;
        }
    }
    let raw = RAW.iter().find(|known| is(known));
    Some(raw.map_or(attributes.at, |name| end_of_raw(page, attributes.at, name)))
}

/// A page that is made of another one.
struct Out<'a> {
    page: &'a [u8],
    /// Up to where the page is in `made`.
    copied: usize,
    made: Vec<u8>,
    most: usize,
}

impl Out<'_> {
    /// `None`: no room.
    fn replace(&mut self, range: Range<usize>, with: &str) -> Option<()> {
        let kept = self.page.len() - self.copied - range.len();
        self.has_room(kept + with.len())?;
        self.made.extend_from_slice(&self.page[self.copied..range.start]);
        self.made.extend_from_slice(with.as_bytes());
        self.copied = range.end;
        Some(())
    }

    fn whole(mut self) -> Option<Vec<u8>> {
        self.has_room(self.page.len() - self.copied)?;
        self.made.extend_from_slice(&self.page[self.copied..]);
        Some(self.made)
    }

    fn has_room(&self, more: usize) -> Option<()> {
        (self.made.len() + more <= self.most).then_some(())
    }
}

/// The attributes of a tag, one after the other: a page may have a million, so none is kept.
struct Attributes<'a> {
    page: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    /// The next one's name, and the range of its value without its quotes. `None`: `at` is behind the tag.
    fn following(&mut self) -> Option<(&'a [u8], Range<usize>)> {
        loop {
            let start = end_of(self.page, self.at, |byte| !byte.is_ascii_whitespace() && byte != b'/');
            self.at = start + usize::from(start < self.page.len());
            if *self.page.get(start)? == b'>' {
                return None;
            }
            if let Some(found) = self.read(start) {
                return Some(found);
            }
        }
    }

    /// `None`: it has no value.
    fn read(&mut self, start: usize) -> Option<(&'a [u8], Range<usize>)> {
        let page = self.page;
        // A stray `=` begins a name, so that every turn gets further.
        let name_end = end_of(page, start + 1, |byte| ends_name(byte) || byte == b'=');
        self.at = name_end;
        let equals = end_of(page, name_end, |byte| !byte.is_ascii_whitespace());
        if page.get(equals) != Some(&b'=') {
            return None;
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
        self.at = end;
        Some((&page[start..name_end], value))
    }
}

/// Where the end tag of `name` begins, from `at` on.
fn end_of_raw(page: &[u8], at: usize, name: &str) -> usize {
    let mut from = at;
    while let Some(start) = find(page, from, b"</") {
        let (begins, ends) = (start + 2, start + 2 + name.len());
        let named = page.get(begins..ends).is_some_and(|said| said.eq_ignore_ascii_case(name.as_bytes()));
        // `</scripts>` ends no script.
        if named && page.get(ends).is_some_and(|byte| ends_name(*byte)) {
            return start;
        }
        from = begins;
    }
    page.len()
}

fn ends_name(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>')
}

fn find(page: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    page.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| from + at)
}

/// The first place from `from` on at which `ends` holds, or the page's end.
fn end_of(page: &[u8], from: usize, ends: impl Fn(u8) -> bool) -> usize {
    let from = from.min(page.len());
    page[from..].iter().position(|byte| ends(*byte)).map_or(page.len(), |at| from + at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewritten(page: &str) -> String {
        let made = with_links(page.as_bytes(), usize::MAX, |link| format!("/p{link}")).unwrap();
        String::from_utf8(made).unwrap()
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
            (
                "<SCRIPT>'</scripts><a href=/x>'</script ><a href=/y>",
                "<SCRIPT>'</scripts><a href=/x>'</script ><a href=/p/y>",
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

    #[test]
    fn a_page_of_nothing_but_links_does_not_grow_beyond_its_bound() {
        let page = format!("<a{}>", " href=/".repeat(1 << 16));
        let prefix = "/p".repeat(1 << 10);
        let made = std::cell::Cell::new(0);
        let rewrite = |link: &str| {
            made.set(made.get() + prefix.len());
            format!("{prefix}{link}")
        };
        assert_eq!(with_links(page.as_bytes(), 2 * page.len(), rewrite), None);
        assert!(made.get() < 2 * page.len(), "it ends at the first link too many");
        let one = |page: &str, most| with_links(page.as_bytes(), most, |_| "/abcd".into());
        assert_eq!(one("<a href=/>", "<a href=/>".len() + 4).unwrap(), b"<a href=/abcd>");
        assert_eq!(one("<a href=/>", "<a href=/>".len() + 3), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_page_whose_links_stay_is_the_same_page(page in "([<>/='\" a-z!-]|<a href=|<script>|</script>|</scripts|<!--|-->){0,40}") {
            prop_assert_eq!(with_links(page.as_bytes(), page.len(), str::to_owned).unwrap(), page.as_bytes());
        }

        #[test]
        fn any_bytes_are_a_page(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..8),
                    prop::sample::select(vec![
                        "<a href=", "<IMG src='", "<script src=\"", "</script", ">", "<!--", "-->", "=", "/", "'", "\"", " ",
                    ])
                    .prop_map(|text| text.as_bytes().to_vec()),
                ],
                0..40,
            ),
            room in 0..200_usize,
        ) {
            let page = pieces.concat();
            prop_assert_eq!(with_links(&page, page.len(), str::to_owned).unwrap(), page.clone());
            let made = with_links(&page, room, |link| format!("/p{link}"));
            prop_assert!(made.is_none_or(|made| made.len() <= room && made.len() >= page.len()));
        }
    }
}
