//! Owns versions: how they are read, ordered and written.

use std::fmt;

use semver::Prerelease;
use thiserror::Error;

/// More bytes of a text that is not a version are not shown.
const SHOWN: usize = 100;

const SEPARATORS: [char; 3] = ['.', '-', '_'];

/// A version as the gate orders it: by PEP 440, which Python code stamps, without the local part.
///
/// Semver is read too, where it has a place in that order, and PEP 440's reading wins:
/// `1.0.0-dev.1` comes before `1.0.0-alpha.1`, `1.0.0-rc2` before `1.0.0-rc10`, `1.0.0-pre.1` is
/// `1.0.0-rc.1`, and `1.0.0-post.1` and `1.0.0-r1` come after `1.0.0`. Trailing zeros say nothing:
/// `1.0` is `1.0.0`.
///
/// `Display` writes semver that Python's `packaging` also parses (`0.8.0`, `0.8.0-rc.1`). A version
/// with no such form (post, development, epoch, a fourth number) is written as PEP 440 does, with at
/// least three numbers. Equal versions are written alike, and what is written is read as an equal
/// version.
// The derived order is PEP 440's: it rests on the order of these fields and of the variants below.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    epoch: u64,
    /// Without trailing zeros.
    release: Vec<u64>,
    stage: Stage,
    post: Option<u64>,
    dev: Dev,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    /// Development before any pre-release; what leads to a pre-release or post release is theirs.
    Start,
    Alpha(u64),
    Beta(u64),
    Candidate(u64),
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Dev {
    Number(u64),
    Done,
}

impl Version {
    /// Reads a version from a database's record, or from its operator.
    ///
    /// # Errors
    ///
    /// [`VersionError::BareNumber`] for `1.0.0-1` and its like, [`VersionError::NoOrder`] for other
    /// semver that is not PEP 440, [`VersionError::TooLarge`] for a number above [`u64::MAX`], and
    /// [`VersionError::Unreadable`] for the rest.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let lower = text.trim().to_ascii_lowercase();
        let bare = lower.strip_prefix('v').unwrap_or(&lower);
        (Reader { text, rest: bare }).version()?.ok_or_else(|| {
            let refusal = match semver::Version::parse(bare) {
                Ok(_) => VersionError::NoOrder,
                Err(_) => VersionError::Unreadable,
            };
            refusal(text.into())
        })
    }

    /// Reads a version that is built into a binary, or that is to be written to a record.
    ///
    /// # Errors
    ///
    /// Those of [`Version::parse`], [`VersionError::Development`] for `.devN` or a local part, and
    /// [`VersionError::Unwritable`] for what semver cannot express.
    pub fn parse_code(text: &str) -> Result<Self, VersionError> {
        let version = Self::parse(text)?;
        let has_local = text.contains('+');
        if has_local || version.dev != Dev::Done {
            return Err(VersionError::Development(text.into()));
        }
        if version.to_semver().is_none() {
            return Err(VersionError::Unwritable(text.into()));
        }
        Ok(version)
    }

    /// The written form, if there is one.
    fn to_semver(&self) -> Option<semver::Version> {
        let pre = match self.stage {
            Stage::Start => return None,
            Stage::Alpha(number) => format!("alpha.{number}"),
            Stage::Beta(number) => format!("beta.{number}"),
            Stage::Candidate(number) => format!("rc.{number}"),
            Stage::Release => String::new(),
        };
        let [major, minor, patch] = *self.padded_release() else {
            return None;
        };
        let plain = self.epoch == 0 && self.post.is_none() && self.dev == Dev::Done;
        plain.then_some(semver::Version {
            pre: Prerelease::new(&pre).ok()?,
            ..semver::Version::new(major, minor, patch)
        })
    }

    /// The series that a release belongs to, as in "deploy 0.8.x".
    pub(crate) fn series(&self) -> String {
        let release = self.padded_release();
        let epoch = if self.epoch > 0 { format!("{}!", self.epoch) } else { String::new() };
        format!("{epoch}{}.{}.x", release[0], release[1])
    }

    fn padded_release(&self) -> Vec<u64> {
        let mut release = self.release.clone();
        release.resize(release.len().max(3), 0);
        release
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(semver) = self.to_semver() {
            return semver.fmt(f);
        }
        if self.epoch > 0 {
            write!(f, "{}!", self.epoch)?;
        }
        let release: Vec<_> = self.padded_release().iter().map(u64::to_string).collect();
        f.write_str(&release.join("."))?;
        match self.stage {
            Stage::Alpha(number) => write!(f, "a{number}")?,
            Stage::Beta(number) => write!(f, "b{number}")?,
            Stage::Candidate(number) => write!(f, "rc{number}")?,
            Stage::Start | Stage::Release => {}
        }
        if let Some(number) = self.post {
            write!(f, ".post{number}")?;
        }
        if let Dev::Number(number) = self.dev {
            write!(f, ".dev{number}")?;
        }
        Ok(())
    }
}

/// Why a text is not a version, or not one that may be written. Each variant holds the text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VersionError {
    /// A number right after a hyphen (`1.0.0-1`, `1.0-1`, `1.0.0-0.3.7`), which semver and PEP 440
    /// order differently.
    #[error(
        "version {} has a bare number after a hyphen, a pre-release to semver but a post release to \
         PEP 440: write X.Y.Z-rc.N, or X.Y.Z",
        shown(.0)
    )]
    BareNumber(String),
    /// Semver that PEP 440 cannot read (`1.0.0-foo.1`, `1.0.0-alpha.1.2`), and so cannot order.
    #[error(
        "version {} is semver that PEP 440 cannot order: write X.Y.Z, or X.Y.Z-alpha.N, -beta.N or -rc.N",
        shown(.0)
    )]
    NoOrder(String),
    /// A number above [`u64::MAX`].
    #[error("version {} has a number of more than 64 bits: write a smaller one", shown(.0))]
    TooLarge(String),
    /// Neither semver nor PEP 440.
    #[error("version {} is neither semver nor PEP 440: write X.Y.Z or X.Y.Z-rc.N", shown(.0))]
    Unreadable(String),
    /// A development version, where a release or a pre-release is needed.
    #[error(
        "version {} is a development version: use a release X.Y.Z or a pre-release X.Y.Z-rc.N",
        shown(.0)
    )]
    Development(String),
    /// A post release, an epoch or a fourth number, where semver is needed.
    #[error(
        "version {} has a post release, an epoch or a fourth number, which semver cannot express: \
         use X.Y.Z or X.Y.Z-rc.N",
        shown(.0)
    )]
    Unwritable(String),
}

/// A text in quotation marks, cut where it is long.
fn shown(text: &str) -> String {
    let mut text = text.to_owned();
    crate::visible::cut(&mut text, SHOWN);
    format!("{text:?}")
}

/// Eats a version in lower case from its left, by the pattern that `packaging` documents.
struct Reader<'a> {
    /// As given, for errors.
    text: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// The whole version, or none if the text is not PEP 440.
    fn version(mut self) -> Result<Option<Version>, VersionError> {
        let Some(mut first) = self.number()? else {
            return Ok(None);
        };
        let mut epoch = 0;
        if let Some(number) = self.number_after('!')? {
            (epoch, first) = (first, number);
        }
        let mut release = vec![first];
        while let Some(number) = self.number_after('.')? {
            release.push(number);
        }
        while release.last() == Some(&0) {
            release.pop();
        }
        let pre = self.pre()?;
        let post = self.tag(&["post", "rev", "r"])?;
        if post.is_none() && self.before_digit('-').is_some() {
            return Err(VersionError::BareNumber(self.text.into()));
        }
        let dev = self.tag(&["dev"])?.map_or(Dev::Done, Dev::Number);
        let start = post.is_none() && dev != Dev::Done;
        let version = Version {
            epoch,
            release,
            stage: pre.unwrap_or(if start { Stage::Start } else { Stage::Release }),
            post,
            dev,
        };
        let complete = self.rest.is_empty() || self.rest.strip_prefix('+').is_some_and(is_local);
        Ok(complete.then_some(version))
    }

    fn pre(&mut self) -> Result<Option<Stage>, VersionError> {
        let stages = [
            (&["alpha", "a"][..], Stage::Alpha as fn(u64) -> Stage),
            (&["beta", "b"], Stage::Beta),
            (&["preview", "pre", "c", "rc"], Stage::Candidate),
        ];
        for (words, stage) in stages {
            if let Some(number) = self.tag(words)? {
                return Ok(Some(stage(number)));
            }
        }
        Ok(None)
    }

    /// The number after one of `words`, 0 when left out; a separator may stand before either.
    fn tag(&mut self, words: &[&str]) -> Result<Option<u64>, VersionError> {
        let unseparated = |text| str::strip_prefix(text, SEPARATORS).unwrap_or(text);
        let start = unseparated(self.rest);
        let Some(rest) = words.iter().find_map(|word| start.strip_prefix(word)) else {
            return Ok(None);
        };
        self.rest = unseparated(rest);
        Ok(Some(self.number()?.unwrap_or(0)))
    }

    fn number_after(&mut self, mark: char) -> Result<Option<u64>, VersionError> {
        match self.before_digit(mark) {
            Some(rest) => {
                self.rest = rest;
                self.number()
            }
            None => Ok(None),
        }
    }

    /// What follows `mark`, if that comes next and a digit after it.
    fn before_digit(&self, mark: char) -> Option<&'a str> {
        let rest = self.rest.strip_prefix(mark)?;
        rest.starts_with(is_digit).then_some(rest)
    }

    fn number(&mut self) -> Result<Option<u64>, VersionError> {
        let rest = self.rest.trim_start_matches(is_digit);
        let digits = &self.rest[..self.rest.len() - rest.len()];
        self.rest = rest;
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(VersionError::TooLarge(self.text.into())),
        }
    }
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

fn is_local(text: &str) -> bool {
    text.split(SEPARATORS)
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    fn refusal(text: &str) -> VersionError {
        Version::parse(text).unwrap_err()
    }

    fn assert_ascending(texts: &[&str]) {
        for pair in texts.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{} < {}", pair[0], pair[1]);
        }
    }

    fn assert_equal(texts: &[&str]) {
        for text in texts {
            assert_eq!(version(text), version(texts[0]), "{text} = {}", texts[0]);
        }
    }

    #[test]
    fn orders_release_candidates_before_the_release() {
        assert_ascending(&["0.8.0-alpha.3", "0.8.0-beta.2", "0.8.0-rc.1", "0.8.0", "0.8.1-rc.1"]);
    }

    #[test]
    fn orders_development_before_what_it_leads_to() {
        assert_ascending(&[
            "0.8.0.dev4",
            "0.8.0a3.dev2",
            "0.8.0a3",
            "0.8.0a3.post1.dev1",
            "0.8.0a3.post1",
            "0.8.0",
            "0.8.0.post1.dev1",
            "0.8.0.post1",
        ]);
    }

    #[test]
    fn orders_numbers_by_value_and_never_as_text() {
        assert_ascending(&["0.9.0", "0.10.0", "1.0.0-rc2", "1.0.0-rc10"]);
    }

    #[test]
    fn orders_an_epoch_before_everything_else() {
        assert_ascending(&["2.0", "3000.1", "1!0.1"]);
    }

    #[test]
    fn equates_the_spellings_of_one_version() {
        assert_equal(&["0.8.0-alpha.3", "0.8.0alpha3", "0.8a3", "v0.8.0.A-03", " 0.8.0_alpha_3\n"]);
        assert_equal(&[
            "0.8.0-rc.1",
            "0.8.0.RC1",
            "0.8.0_rc_1",
            "0.8c1",
            "0.8pre1",
            "0.8-preview.01",
        ]);
        assert_equal(&["0.7.0.post1", "0.7.0-r1", "0.7.0rev1", "v0.7-post.1"]);
        assert_equal(&["1", "1.0", "v1.0.0", "V1.0.0.0", "0!1"]);
    }

    #[test]
    fn tells_different_versions_apart() {
        let others = ["0.8.0-alpha.3", "0.8.0-beta.3", "0.8.0-rc.3", "0.8.0.post3", "0.8.0.dev3"];
        for other in others.into_iter().chain(["0.8.0.0.1", "1!0.8.0"]) {
            assert_ne!(version(other), version("0.8.0"), "{other}");
        }
    }

    #[test]
    fn ignores_the_local_part() {
        assert_equal(&["0.8.0", "0.8.0+local.1", "0.8.0+g1f2-3.Dirty_2"]);
    }

    #[test]
    fn refuses_a_local_part_that_python_cannot_read() {
        for text in ["0.8.0+", "0.8.0+a+b", "0.8.0+a..b", "0.8.0+ä"] {
            assert_eq!(refusal(text), VersionError::Unreadable(text.into()));
        }
        assert_eq!(refusal("0.8.0+a--b"), VersionError::NoOrder("0.8.0+a--b".into()));
    }

    #[test]
    fn refuses_a_bare_number_after_a_hyphen() {
        for text in ["1.0.0-1", "1.0-1", "v1-0", "1.0.0-0.3.7", "1.0.0-rc.1-2", "1.0-1.dev2"] {
            assert_eq!(refusal(text), VersionError::BareNumber(text.into()));
        }
    }

    #[test]
    fn reads_a_number_after_a_hyphen_and_a_word() {
        assert_equal(&["1.0.0-rc-1", "1.0.0-rc.1"]);
        assert_equal(&["1.0.0-post-1", "1.0.0.post1"]);
    }

    #[test]
    fn refuses_semver_without_an_order_in_pep_440() {
        for text in ["1.0.0-foo.1", "v1.0.0-alpha.1.2", "1.0.0-alpha.beta", "1.0.0-rc1x"] {
            assert_eq!(refusal(text), VersionError::NoOrder(text.into()));
        }
    }

    #[test]
    fn reads_semver_in_the_order_of_pep_440() {
        assert_ascending(&["1.0.0-dev.1", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0", "1.0.0-post.1"]);
    }

    #[test]
    fn refuses_what_is_no_version() {
        for text in [
            "", "v", "vv1.0", "v 1.0", "1.", "1..0", ".1", "1!", "1!2!3", "latest", "1.0 0", "1.0é",
        ] {
            assert_eq!(refusal(text), VersionError::Unreadable(text.into()));
        }
    }

    #[test]
    fn reads_the_largest_number_and_refuses_a_larger_one() {
        for form in ["N.0.0", "N!1.0", "1.0.N", "1.0rcN", "1.0.postN", "1.0.devN"] {
            let text = form.replace('N', "18446744073709551615");
            assert_eq!(version(&version(&text).to_string()), version(&text));
            let text = form.replace('N', "18446744073709551616");
            assert_eq!(refusal(&text), VersionError::TooLarge(text));
        }
    }

    #[test]
    fn writes_semver_that_python_reads() {
        for (text, written) in [
            ("0.8", "0.8.0"),
            ("v0.8.0", "0.8.0"),
            ("0.8.0.0", "0.8.0"),
            ("0", "0.0.0"),
            ("0.8.0a3", "0.8.0-alpha.3"),
            ("0.8.0b2", "0.8.0-beta.2"),
            ("0.8.0.RC1", "0.8.0-rc.1"),
        ] {
            assert_eq!(Version::parse_code(text).unwrap().to_string(), written);
        }
    }

    #[test]
    fn writes_pep_440_where_semver_cannot() {
        for (text, written) in [
            ("0.7-r1", "0.7.0.post1"),
            ("0.8.0-dev.4", "0.8.0.dev4"),
            ("1!2.0", "1!2.0.0"),
            ("0.8.0.1-alpha.3", "0.8.0.1a3"),
            ("1!0.8b2.post3.dev4", "1!0.8.0b2.post3.dev4"),
        ] {
            assert_eq!(version(text).to_string(), written);
        }
    }

    #[test]
    fn refuses_to_write_a_development_version() {
        for text in ["0.8.0.dev4", "0.8.0a3.dev2", "0.8.0-dev.1", "0.8.0+local.1", "0.7.0.post1+a"]
        {
            let error = Version::parse_code(text).unwrap_err();
            assert_eq!(error, VersionError::Development(text.into()));
        }
    }

    #[test]
    fn refuses_to_write_what_semver_cannot_express() {
        for text in ["0.7.0.post1", "0.7.0-r1", "0.8.0-rc.1.post2", "1!2.0", "0.8.0.1"] {
            let error = Version::parse_code(text).unwrap_err();
            assert_eq!(error, VersionError::Unwritable(text.into()));
        }
    }

    #[test]
    fn refuses_to_write_what_it_cannot_read() {
        for text in ["unknown", "1.0.0-1", "1.0.0-foo.1", "18446744073709551616"] {
            assert_eq!(Version::parse_code(text), Err(refusal(text)));
        }
    }

    #[test]
    fn names_the_text_and_the_remedy() {
        assert_eq!(
            refusal("1.0.0-1").to_string(),
            "version \"1.0.0-1\" has a bare number after a hyphen, a pre-release to semver but a \
             post release to PEP 440: write X.Y.Z-rc.N, or X.Y.Z"
        );
    }
}
