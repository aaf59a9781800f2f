//! What a program writes to standard output, cut into messages.

use std::io;

use mongodb::bson::spec::ElementType;
use mongodb::bson::{RawDocument, RawDocumentBuf};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::ChildStdout;

use super::wrong::Wrong;

/// The most bytes that an answer may have: two documents of the largest size, and a little.
pub(super) const MOST: usize = 33 * 1024 * 1024;

/// How much is read at a time.
const CHUNK: usize = 1 << 16;

/// How deep documents may nest in an answer: three levels more than the server stores.
const DEPTH: usize = 200;

/// The standard output of a program.
pub(super) struct Output<Pipe = ChildStdout> {
    pipe: Pipe,
    held: Vec<u8>,
    /// Where in `held` the next message begins.
    at: usize,
}

impl<Pipe: AsyncRead + Unpin> Output<Pipe> {
    pub(super) fn new(pipe: Pipe) -> Self {
        Output { pipe, held: Vec::new(), at: 0 }
    }

    /// The next message. Nothing is lost where the future is dropped.
    pub(super) async fn next(&mut self) -> Result<RawDocumentBuf, Wrong> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(message);
            }
            self.held.drain(..self.at);
            self.at = 0;
            self.held.reserve_exact(self.missing().max(CHUNK));
            match self.pipe.read_buf(&mut self.held).await {
                Ok(0) | Err(_) => return Err(self.ended()),
                Ok(_) => {}
            }
        }
    }

    /// Whether something is left that no question asked for; reads until the end where the program closes its output.
    pub(super) async fn rest(&mut self) -> Option<Wrong> {
        while self.is_empty() {
            match self.pipe.read_buf(&mut self.held).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        self.unasked()
    }

    /// What was written that no question asked for, as far as it was read.
    pub(super) fn unasked(&self) -> Option<Wrong> {
        (!self.is_empty()).then(|| self.text().unwrap_or(Wrong::TooMuch))
    }

    /// How much memory is taken by what was read.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.held.capacity()
    }

    /// What is wrong with the part of a message that did not go on.
    pub(super) fn stalled(&self) -> Option<Wrong> {
        self.text()
    }

    fn is_empty(&self) -> bool {
        self.at == self.held.len()
    }

    fn ended(&self) -> Wrong {
        match self.is_empty() {
            true => Wrong::Closed,
            false => self.text().unwrap_or(Wrong::CutOff),
        }
    }

    /// The next message, once it is there as a whole.
    fn whole(&mut self) -> Result<Option<RawDocumentBuf>, Wrong> {
        let rest = &self.held[self.at..];
        let Some(length) = rest.first_chunk() else { return Ok(None) };
        let length = usize::try_from(i32::from_le_bytes(*length)).unwrap_or_default();
        if !(5..=MOST).contains(&length) {
            let wrong = if length < 5 {
                Wrong::NoMessage("it is not BSON".to_owned())
            } else {
                Wrong::TooLarge
            };
            return Err(self.text().unwrap_or(wrong));
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let message = match rest.len() == length && self.at == 0 {
            true => std::mem::take(&mut self.held),
            false => {
                let message = message.to_vec();
                self.at += length;
                message
            }
        };
        RawDocumentBuf::from_bytes(message)
            .ok()
            .filter(|message| is_whole(message, DEPTH))
            .ok_or_else(|| Wrong::NoMessage("it is not valid BSON".to_owned()))
            .map(Some)
    }

    /// How many bytes the message that has begun still lacks, as far as it says.
    fn missing(&self) -> usize {
        let length = self.held.first_chunk().map_or(0, |length| i32::from_le_bytes(*length));
        usize::try_from(length).unwrap_or_default().min(MOST).saturating_sub(self.held.len())
    }

    /// Whether text begins here, which no length of a message looks like.
    fn text(&self) -> Option<Wrong> {
        let start = &self.held[self.at..];
        let start = &start[..start.len().min(4)];
        let is_text =
            |byte: &u8| byte.is_ascii_graphic() || b" \n\r\t".contains(byte) || *byte >= 0x80;
        (!start.is_empty() && start.iter().all(is_text)).then_some(Wrong::Text)
    }
}

/// Whether a document is what the server takes, down to its last value, so that no answer fails only when it is written.
/// Text need not be UTF-8: it may come from a document.
fn is_whole(document: &RawDocument, depth: usize) -> bool {
    let mut end = 4;
    let all = document.iter_elements().all(|element| {
        let Ok(element) = element else { return false };
        let start = end + 1 + element.key().len() + 1;
        end = start + element.size();
        let value = document.as_bytes().get(start..end);
        value.is_some_and(|value| is_value(element.element_type(), value, depth))
    });
    all && end + 1 == document.as_bytes().len()
}

/// Whether these bytes are a value of such a type.
fn is_value(kind: ElementType, value: &[u8], depth: usize) -> bool {
    match kind {
        ElementType::Array | ElementType::EmbeddedDocument => {
            let inner = RawDocument::from_bytes(value);
            depth > 0 && inner.is_ok_and(|inner| is_whole(inner, depth - 1))
        }
        ElementType::String | ElementType::JavaScriptCode | ElementType::Symbol => {
            string(value).is_some_and(<[u8]>::is_empty)
        }
        ElementType::DbPointer => string(value).is_some_and(|rest| rest.len() == 12),
        ElementType::JavaScriptCodeWithScope => {
            let scope = value.get(4..).and_then(string);
            let scope = scope.and_then(|scope| RawDocument::from_bytes(scope).ok());
            depth > 0 && scope.is_some_and(|scope| is_whole(scope, depth - 1))
        }
        ElementType::Boolean => matches!(value, [0 | 1]),
        _ => true,
    }
}

/// What follows a string, if these bytes begin with one.
fn string(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(i32::from_le_bytes(*length)).ok()?;
    let (text, rest) = rest.split_at_checked(length)?;
    (text.last() == Some(&0)).then_some(rest)
}

impl From<io::Error> for Wrong {
    fn from(_: io::Error) -> Self {
        Wrong::Closed
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::rawdoc;

    use super::*;

    #[test]
    fn a_document_that_lies_of_its_parts_is_not_whole() {
        let document = rawdoc! { "a": { "b": [1, "x"] }, "c": "text" };
        assert!(is_whole(&document, 5));
        assert!(!is_whole(&document, 1));
        let bytes = document.into_bytes();
        for at in 4..bytes.len() - 1 {
            for value in [0, 1, 3, 4, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                // whatever it says, it says without a panic
                let _ = RawDocument::from_bytes(&bytes).map(|document| is_whole(document, 5));
            }
        }
        let mut lying = bytes.clone();
        lying[7] = 200; // the length of `a`
        assert!(!is_whole(RawDocument::from_bytes(&lying).unwrap(), 5));
    }
}
