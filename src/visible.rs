//! Text that a terminal, a viewer or a reader could be deceived by, made visible: control characters, those
//! that reorder text, and those that show nothing. Everything that leaves the process passes through here.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// Whether a character is one that must not leave the process as it is.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' // soft hyphen
            | '\u{34f}' // combining grapheme joiner
            | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' // zero width, left-to-right and right-to-left marks
            | '\u{2028}'..='\u{202e}' // separators of lines and paragraphs, embeddings, overrides
            | '\u{2060}'..='\u{206f}' // invisible operators, isolates
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}' // tags, variation selectors
        )
}

/// A text with every hidden character written as `\u{9b}`.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// A line that this program composed, colours included: whatever is hidden in it and is neither an escape
/// sequence of its own nor at its end came from elsewhere.
pub(crate) fn visible_line(line: &str) -> Cow<'_, str> {
    let (body, end) = match line.strip_suffix('\n') {
        Some(body) => (body, "\n"),
        None => (line, ""),
    };
    match escaped(body, |c| is_hidden(c) && !matches!(c, '\x1b' | '\r' | '\t')) {
        Cow::Borrowed(_) => Cow::Borrowed(line),
        Cow::Owned(shown) => Cow::Owned(shown + end),
    }
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            character if !hidden(character) => shown.push(character),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            character => shown.extend(character.escape_unicode()),
        }
    }
    Cow::Owned(shown)
}

/// JSON in which every hidden character is escaped, so that it reads back as the same text.
pub(crate) fn to_json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Visible))?;
    // what is written is UTF-8: the formatter is given texts
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, character)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            CompactFormatter.write_string_fragment(writer, &rest[..at])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + character.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// Cuts a text to so many bytes, between characters.
pub(crate) fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: &str = "\u{7f}\u{80}\u{9b}\u{9f}\u{ad}\u{61c}\u{200b}\u{200e}\u{202a}\u{202e}\u{2028}\
                          \u{2066}\u{2069}\u{feff}\u{e0041}\u{fff9}";

    #[test]
    fn every_hidden_character_is_shown_by_its_number() {
        assert_eq!(visible("0.8.0 \u{9b}31m \u{202e}x"), "0.8.0 \\u{9b}31m \\u{202e}x");
        assert_eq!(visible("a\nb\r\tc\x1b[0m"), "a\\nb\\r\\tc\\u{1b}[0m");
        for character in HIDDEN.chars() {
            assert!(!visible(&character.to_string()).contains(character), "{character:?}");
        }
        for plain in ["größer", "日本語", "0.8.0-rc.1", "naïve – “quoted” …", "🙂", "עברית"]
        {
            assert!(matches!(visible(plain), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn json_escapes_them_and_reads_back_as_the_same_text() {
        let text = format!("a{HIDDEN}\"\\\n\u{1}z");
        let json = to_json(&serde_json::json!({ "text": text, "list": [HIDDEN] })).unwrap();
        assert!(!json.chars().any(is_hidden), "{json:?}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["text"], text.as_str());
        assert_eq!(to_json(&"0.8.0").unwrap(), "\"0.8.0\"");
    }

    #[test]
    fn a_composed_line_keeps_its_colours_and_its_end_and_nothing_else() {
        assert_eq!(visible_line("\x1b[32mINFO\x1b[0m ok\n"), "\x1b[32mINFO\x1b[0m ok\n");
        assert_eq!(visible_line("\r\x1b[Ka\u{202e}b\nc\n"), "\r\x1b[Ka\\u{202e}b\\nc\n");
        assert_eq!(visible_line("a\u{9b}"), "a\\u{9b}");
    }
}
