//! Owns versions: how they are read, ordered and written.

use std::fmt;

use pep440_rs::{PrereleaseKind, Version as Pep440};
use thiserror::Error;

/// More bytes of a text that is not a version are not shown.
const SHOWN: usize = 100;

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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Pep440);

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
        let public = bare.split_once('+').map_or(bare, |(public, _)| public);
        let refusal = match bare.parse::<Pep440>() {
            // at the beginning, PEP 440 itself would read a second v
            _ if !bare.starts_with(is_digit) => VersionError::Unreadable,
            _ if has_bare_number(public) => VersionError::BareNumber,
            Ok(version) => return Ok(Version(version.without_local())),
            Err(_) if has_large_number(public) => VersionError::TooLarge,
            Err(_) if semver::Version::parse(bare).is_ok() => VersionError::NoOrder,
            Err(_) => VersionError::Unreadable,
        };
        Err(refusal(text.into()))
    }

    /// Reads a version that is built into a binary, or that is to be written to a record.
    ///
    /// # Errors
    ///
    /// Those of [`Version::parse`], [`VersionError::Development`] for `.devN` or a local part, and
    /// [`VersionError::Unwritable`] for what semver cannot express.
    pub fn parse_code(text: &str) -> Result<Self, VersionError> {
        let version = Self::parse(text)?;
        if text.contains('+') || version.0.is_dev() {
            return Err(VersionError::Development(text.into()));
        }
        if version.semver().is_none() {
            return Err(VersionError::Unwritable(text.into()));
        }
        Ok(version)
    }

    /// The written form as semver, if there is one.
    fn semver(&self) -> Option<String> {
        let version = &self.0;
        let [major, minor, patch] = *self.release() else { return None };
        let plain = version.epoch() == 0 && !version.is_post() && !version.is_dev();
        let pre = version.pre().map_or(String::new(), |pre| {
            let kind = match pre.kind {
                PrereleaseKind::Alpha => "alpha",
                PrereleaseKind::Beta => "beta",
                PrereleaseKind::Rc => "rc",
            };
            format!("-{kind}.{}", pre.number)
        });
        plain.then(|| format!("{major}.{minor}.{patch}{pre}"))
    }

    /// The series that a release belongs to, as in "deploy 0.8.x".
    pub(crate) fn series(&self) -> String {
        let (epoch, release) = (self.0.epoch(), self.release());
        let epoch = if epoch > 0 { format!("{epoch}!") } else { String::new() };
        format!("{epoch}{}.{}.x", release[0], release[1])
    }

    /// The numbers, three at least, and more only where they say something.
    fn release(&self) -> Vec<u64> {
        let mut release = self.0.release().to_vec();
        let significant = release.iter().rposition(|number| *number > 0).map_or(0, |last| last + 1);
        release.resize(significant.max(3), 0);
        release
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.semver() {
            Some(semver) => f.write_str(&semver),
            None => self.0.clone().with_release(self.release()).fmt(f),
        }
    }
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

/// Whether a number stands right after a hyphen that no word precedes.
fn has_bare_number(public: &str) -> bool {
    public
        .as_bytes()
        .windows(3)
        .any(|part| !part[0].is_ascii_alphabetic() && part[1] == b'-' && part[2].is_ascii_digit())
}

fn has_large_number(public: &str) -> bool {
    public.split(|c| !is_digit(c)).any(|n| !n.is_empty() && n.parse::<u64>().is_err())
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
