//! What a program may write, whatever it is: random and changed bytes are an answer, or are refused in words.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fastrand::Rng;
use mongodb::bson::{DateTime, Document, RawDocument, RawDocumentBuf, rawdoc};
use tokio::io::AsyncReadExt;

use super::messages;
use super::output::{MOST, Output};
use super::wrong::Wrong;
use crate::authoring::editor::Run;
use crate::visible;

/// What no message may show: it is in every value of the answers.
const SECRET: &str = "s3cret";

/// The most bytes that the message about a wrong answer may have.
const LONG: usize = 1300;

fn run() -> Run {
    Run {
        command: vec!["python3".to_owned()],
        env: BTreeMap::new(),
        timeout: Duration::from_secs(30),
    }
}

/// The fields of documents: names and values by their bytes, of every type, some of which no document may have.
struct Fields<'a> {
    random: &'a mut Rng,
    bytes: Vec<u8>,
}

impl Fields<'_> {
    fn document(random: &mut Rng, write: impl FnOnce(&mut Fields<'_>)) -> Vec<u8> {
        let mut fields = Fields { random, bytes: vec![0; 4] };
        write(&mut fields);
        let mut bytes = fields.bytes;
        bytes.push(0);
        let length = i32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn name(&mut self, kind: u8, name: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend(name);
        self.bytes.push(0);
    }

    fn field(&mut self, kind: u8, name: &[u8], value: &[u8]) {
        self.name(kind, name);
        self.bytes.extend(value);
    }

    fn text(text: &[u8]) -> Vec<u8> {
        let length = i32::try_from(text.len() + 1).unwrap();
        [&length.to_le_bytes(), text, &[0]].concat()
    }

    /// A document or, with numbers as names, an array of them.
    fn inner(&mut self, kind: u8, name: &[u8], write: impl FnOnce(&mut Fields<'_>)) {
        let inner = Fields::document(self.random, write);
        self.field(kind, name, &inner);
    }

    /// A field of any type, in which every text is one that nothing may show.
    fn any(&mut self, name: &[u8], depth: u8) {
        let text = Self::text(SECRET.as_bytes());
        let some = |random: &mut Rng, n| (0..n).map(|_| random.u8(..)).collect::<Vec<u8>>();
        match self.random.u8(..24) {
            0 => self.field(2, name, &text),
            1 => self.field(2, name, &Self::text(b"\xff\xfe")),
            2 => {
                let value = some(self.random, 8);
                self.field(1, name, &value);
            }
            3 => self.field(5, name, &[&[3, 0, 0, 0, 0][..], b"abc"].concat()),
            4 => self.field(5, name, &[7, 0, 0, 0, 2, 3, 0, 0, 0, 1, 2, 3]),
            5 => self.field(6, name, &[]),
            6 => {
                let value = some(self.random, 12);
                self.field(7, name, &value);
            }
            7 => {
                let value = self.random.u8(..3);
                self.field(8, name, &[value]);
            }
            8 => {
                let value = some(self.random, 8);
                self.field(9, name, &value);
            }
            9 => self.field(10, name, &[]),
            10 => self.field(11, name, b"a(\0xi\0"),
            11 => self.field(12, name, &[text, vec![0; 12]].concat()),
            12 => self.field(13, name, &text),
            13 => self.field(14, name, &text),
            14 => {
                let scope = Fields::document(self.random, |inner| inner.any(b"x", 0));
                let length = i32::try_from(4 + text.len() + scope.len()).unwrap();
                self.field(15, name, &[&length.to_le_bytes()[..], &text, &scope].concat());
            }
            15 => {
                let value = some(self.random, 4);
                self.field(16, name, &value);
            }
            16 => {
                let value = some(self.random, 8);
                self.field(17, name, &value);
            }
            17 => {
                let value = some(self.random, 8);
                self.field(18, name, &value);
            }
            18 => {
                let value = some(self.random, 16);
                self.field(19, name, &value);
            }
            19 => {
                let kind = if self.random.bool() { 255 } else { 127 };
                self.field(kind, name, &[]);
            }
            n if depth == 0 => self.field(16, name, &[n, 0, 0, 0]),
            n => {
                let kind = if n < 22 { 3 } else { 4 };
                self.inner(kind, name, |inner| {
                    for n in 0..inner.random.u8(..4) {
                        inner.any(n.to_string().as_bytes(), depth - 1);
                    }
                });
            }
        }
    }

    /// A name of a field, mostly one that a document may have.
    fn some_name(&mut self) -> &'static [u8] {
        const NAMES: [&[u8]; 12] =
            [b"a", b"b", b"c", b"n", b"_id", b"a.b", b"$a", b"", b"\xff", b"0", b"ready", b"set"];
        let most = if self.random.u8(..4) == 0 { NAMES.len() } else { 4 };
        NAMES[self.random.usize(..most)]
    }

    /// A document like `{ d: { d: … } }`.
    fn nested(&mut self, levels: usize) {
        if levels > 0 {
            self.inner(3, b"d", |inner| inner.nested(levels - 1));
        }
    }

    /// A part of an answer, now and then of another type than it should be.
    fn part(&mut self) {
        match self.random.u8(..14) {
            0..=2 => self.inner(3, b"set", |set| {
                for _ in 0..set.random.u8(..5) {
                    let name = set.some_name();
                    set.any(name, 3);
                }
            }),
            3 => self.inner(3, b"set", |set| {
                let levels = set.random.usize(..300);
                set.nested(levels);
            }),
            4 => self.inner(4, b"unset", |unset| {
                for n in 0..unset.random.u16(..300) {
                    let name = unset.some_name();
                    unset.field(2, n.to_string().as_bytes(), &Self::text(name));
                }
            }),
            5 | 6 => self.inner(3, b"insert", |insert| {
                let into = insert.some_name();
                insert.inner(4, into, |documents| {
                    for n in 0..documents.random.u8(..5) {
                        documents.inner(3, n.to_string().as_bytes(), |one| {
                            let name = if one.random.bool() { b"_id" } else { one.some_name() };
                            one.any(name, 2);
                        });
                    }
                });
            }),
            7 => self.inner(3, b"count", |count| {
                let name = count.some_name();
                count.any(name, 0);
            }),
            8 => self.inner(3, b"count", |count| count.field(18, b"n", &i64::MAX.to_le_bytes())),
            9 => {
                let delete = self.random.u8(..3);
                self.field(8, b"delete", &[delete]);
            }
            10 => self.field(2, b"refuse", &Self::text("why \u{1b}[31m\n".repeat(200).as_bytes())),
            11 => self.field(16, b"ready", &[1, 0, 0, 0]),
            12 => {
                let name = self.some_name();
                self.any(name, 2);
            }
            _ => {
                let names: [&[u8]; 6] =
                    [b"set", b"unset", b"insert", b"count", b"delete", b"refuse"];
                let name = names[self.random.usize(..6)];
                self.any(name, 2);
            }
        }
    }
}

/// Numbers that lengths may be mistaken for.
fn length(random: &mut Rng, near: usize) -> i32 {
    let most = i32::try_from(MOST).unwrap();
    let near = i32::try_from(near).unwrap();
    let some =
        [i32::MIN, -1, 0, 1, 3, 4, 5, near - 1, near + 1, most - 1, most, most + 1, i32::MAX];
    some[random.usize(..some.len())]
}

/// What a program may write: a few answers, most of them changed.
fn written(random: &mut Rng) -> Vec<u8> {
    if random.u8(..10) == 0 {
        return (0..random.usize(..200)).map(|_| random.u8(..)).collect();
    }
    let mut bytes = Vec::new();
    for _ in 0..random.u8(1..4) {
        bytes.extend(Fields::document(random, |answer| {
            for _ in 0..answer.random.u8(..4) {
                answer.part();
            }
        }));
    }
    let changes = if random.u8(..3) == 0 { 0 } else { random.u8(1..4) };
    for _ in 0..changes {
        let at = random.usize(..=bytes.len());
        match random.u8(..8) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            2 if at < bytes.len() => bytes[at] = random.u8(..),
            3 => {
                let length = length(random, bytes.len()).to_le_bytes();
                bytes.splice(at..(at + 4).min(bytes.len()), length);
            }
            4 if bytes.len() > 4 => {
                let length = length(random, bytes.len()).to_le_bytes();
                bytes[..4].copy_from_slice(&length);
            }
            5 => bytes.extend(b"a line that was printed\n"),
            6 => {
                let other = random.usize(..=bytes.len());
                let part = bytes[at.min(other)..at.max(other)].to_vec();
                bytes.splice(at..at, part);
            }
            _ => drop(bytes.drain(at..(at + random.usize(..9)).min(bytes.len()))),
        }
    }
    bytes
}

/// What became of what a program wrote.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    edits: usize,
    ready: usize,
    refused: BTreeMap<&'static str, usize>,
}

/// What an answer does to a document, as far as it can be done without a server.
fn edited(message: &RawDocument, document: &RawDocument) -> bool {
    let Ok(edits) = messages::answer(message).unwrap().into_edits(DateTime::MIN) else {
        return false;
    };
    let inserts = edits.inserts().all(|insert| insert.is_ok());
    let Ok(changes) = edits.changes() else { return false };
    let after = changes.map(|changes| changes.apply(document));
    let Some(Ok(after)) = after else { return inserts };
    RawDocument::from_bytes(&after).unwrap();
    inserts
}

/// Reads all that a program wrote, as it comes.
async fn judge(bytes: &[u8], cuts: [usize; 2], seen: &mut Seen) {
    let document = rawdoc! { "_id": 1, "a": SECRET, "b": [1, { "c": 2 }], "n": 7 };
    let (first, rest) = bytes.split_at(cuts[0].min(bytes.len()));
    let (second, third) = rest.split_at(cuts[1].min(rest.len()));
    let mut output = Output::new(first.chain(second).chain(third));
    let mut taken = 0;
    let wrong = loop {
        let message = match output.next().await {
            Ok(message) => message,
            Err(wrong) => break wrong,
        };
        // no byte is lost, and none is made up
        assert!(bytes[taken..].starts_with(message.as_bytes()));
        taken += message.as_bytes().len();
        match messages::answer(&message) {
            Ok(_) => {
                seen.answers += 1;
                seen.edits += usize::from(edited(&message, &document));
            }
            Err(why) => {
                let wrong = Wrong::NoMessage(why);
                assert_told(&wrong);
                *seen.refused.entry(kind(&wrong)).or_default() += 1;
            }
        }
        match messages::ready(&message) {
            Ok(()) => seen.ready += 1,
            Err(wrong) => assert_told(&wrong),
        }
        assert!(output.capacity() <= MOST + bytes.len() + (1 << 17));
    };
    assert!(output.capacity() <= MOST + bytes.len() + (1 << 17));
    assert_told(&wrong);
    for wrong in output.unasked().into_iter().chain(output.stalled()) {
        assert_told(&wrong);
    }
    *seen.refused.entry(kind(&wrong)).or_default() += 1;
}

fn kind(wrong: &Wrong) -> &'static str {
    match wrong {
        Wrong::Closed => "closed",
        Wrong::CutOff => "cut off",
        Wrong::Text => "text",
        Wrong::TooLarge => "too large",
        Wrong::NoMessage(_) => "no message",
        other => panic!("{other:?}"),
    }
}

/// What is said is short, shows nothing of contents, and says what to do.
fn assert_told(wrong: &Wrong) {
    let (what, next) = (wrong.what(&run()), wrong.next(&run()));
    assert!(what.len() < LONG && !next.is_empty(), "{wrong:?}");
    // a program's own reason may say anything
    let is_reason = matches!(wrong, Wrong::Refuses(_));
    assert!(is_reason || !what.contains(SECRET) && !next.contains(SECRET), "{wrong:?}");
    let shown = visible::visible(&what);
    assert!(!shown.chars().any(visible::is_hidden), "{wrong:?}");
}

/// Whatever a program writes, nothing panics, memory stays bounded, and it is an answer or refused. `FUZZ_INPUTS` says how
/// many inputs there are, and `FUZZ_SEED` from where on.
#[test]
fn no_output_whatever_ends_in_a_panic() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    };
    let first = number("FUZZ_SEED", 1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut seen = Seen::default();
    for seed in first..first + number("FUZZ_INPUTS", 4000) {
        let mut random = Rng::with_seed(seed);
        let bytes = written(&mut random);
        let cuts = [random.usize(..=bytes.len()), random.usize(..=bytes.len())];
        let judging = || runtime.block_on(judge(&bytes, cuts, &mut seen));
        let judged = catch_unwind(AssertUnwindSafe(judging));
        judged.unwrap_or_else(|_| panic!("seed {seed}: {bytes:02x?}"));
    }
    eprintln!("{seen:?}");
    assert!(seen.answers > 100 && seen.edits > 50 && seen.ready > 0);
    for kind in ["closed", "cut off", "text", "too large", "no message"] {
        assert!(seen.refused.contains_key(kind), "{kind}: {seen:?}");
    }
}

/// The answers that are taken are what the server takes: another reader of BSON reads all of them, down to the last value.
#[tokio::test]
async fn what_is_taken_for_an_answer_is_read_by_another_reader_too() {
    let mut taken = 0;
    for seed in 0..4000 {
        let mut random = Rng::with_seed(seed);
        let bytes = written(&mut random);
        let mut output = Output::new(&bytes[..]);
        while let Ok(message) = output.next().await {
            let Err(error) = Document::try_from(&*message) else {
                taken += 1;
                continue;
            };
            // it takes no text that is not UTF-8, and no old binary data that lies of its length
            let text = error.to_string();
            assert!(
                text.to_lowercase().contains("utf") || text.contains("binary"),
                "seed {seed}: {text}: {message:02x?}"
            );
        }
    }
    assert!(taken > 1000, "{taken}");
}

#[tokio::test]
async fn a_length_is_taken_up_to_the_limit_and_no_memory_is_taken_for_what_does_not_come() {
    let of = |length: usize| i32::try_from(length).unwrap().to_le_bytes();
    // as large as may be
    let most = {
        let load = "x".repeat(MOST - rawdoc! { "set": { "a": "" } }.as_bytes().len());
        rawdoc! { "set": { "a": load } }
    };
    assert_eq!(most.as_bytes().len(), MOST);
    let bytes = most.into_bytes();
    let mut output = Output::new(&bytes[..]);
    assert_eq!(output.next().await.unwrap().as_bytes().len(), MOST);
    assert!(matches!(output.next().await, Err(Wrong::Closed)));
    // one byte more is refused by its length alone
    let more = of(MOST + 1);
    let mut output = Output::new((&more[..]).chain(tokio::io::repeat(0)));
    assert!(matches!(output.next().await, Err(Wrong::TooLarge)));
    assert!(output.capacity() < 1 << 18, "{}", output.capacity());
    // one that does not come
    let begun = [&of(MOST)[..], b"\x03set\0"].concat();
    let mut output = Output::new(&begun[..]);
    assert!(matches!(output.next().await, Err(Wrong::CutOff)));
    assert!(output.capacity() <= MOST + (1 << 17));
    for part in ["16 MiB", "fewer or smaller documents"] {
        assert!(Wrong::TooLarge.next(&run()).contains(part));
    }
}

/// An answer that only the server would have refused, when it is written.
#[tokio::test]
async fn values_that_no_server_stores_are_refused_wherever_they_are() {
    let mut random = Rng::with_seed(1);
    let text = Fields::text(b"x");
    let scope = |document: &[u8]| {
        let length = i32::try_from(4 + text.len() + document.len()).unwrap();
        [&length.to_le_bytes()[..], &text, document].concat()
    };
    let lying = [&[200, 0, 0, 0][..], &[0]].concat();
    let good = RawDocumentBuf::new();
    let mut deep = RawDocumentBuf::new();
    for _ in 0..250 {
        deep = rawdoc! { "d": deep };
    }
    let wrong: [(u8, &[u8], Vec<u8>); 6] = [
        (8, b"a boolean that is neither", vec![2]),
        (2, b"text without its end", b"\x02\0\0\0xy".to_vec()),
        (13, b"code without its end", b"\x02\0\0\0xy".to_vec()),
        (15, b"a scope that lies of its length", scope(&lying)),
        (15, b"a scope as deep as no document", scope(deep.as_bytes())),
        (12, b"a pointer of a wrong name", [&b"\x02\0\0\0xy"[..], &[0; 12]].concat()),
    ];
    let right: [(u8, &[u8], Vec<u8>); 3] = [
        (8, b"a boolean", vec![1]),
        (15, b"code with a scope", scope(good.as_bytes())),
        (12, b"a pointer", [&text[..], &[0; 12]].concat()),
    ];
    for ((kind, name, value), is_right) in
        wrong.iter().map(|one| (one, false)).chain(right.iter().map(|one| (one, true)))
    {
        for nested in [false, true] {
            let bytes = Fields::document(&mut random, |answer| {
                answer.inner(3, b"set", |set| match nested {
                    false => set.field(*kind, b"a", value),
                    true => set.inner(4, b"a", |list| list.field(*kind, b"0", value)),
                });
            });
            let mut output = Output::new(&bytes[..]);
            let taken = output.next().await;
            let name = String::from_utf8_lossy(name);
            match (taken, is_right) {
                (Ok(_), true) | (Err(Wrong::NoMessage(_)), false) => {}
                (taken, _) => panic!("{name}, nested {nested}: {taken:?}"),
            }
        }
    }
}
