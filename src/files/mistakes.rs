//! Mistakes as they are found, each with the line where it is, and the place in it marked.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::files::node::Span;
use crate::process::mistake::{Mistake, MistakeLevel};
use crate::visible::is_hidden;

/// More mistakes than that are only counted.
const MOST: usize = 100;
/// So many characters of a line are shown around the place.
const SHOWN: usize = 100;

/// A file's name and text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
}

/// All mistakes of all files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mistakes {
    list: Vec<Mistake>,
    errors: usize,
    warnings: usize,
}

impl Mistakes {
    /// Whether something was found that keeps the files from being used.
    pub(crate) fn are_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether nothing was found, not even what is only odd.
    pub(crate) fn is_empty(&self) -> bool {
        self.errors + self.warnings == 0
    }

    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// The mistakes by file and place, the first hundred of them.
    pub(crate) fn into_list(mut self) -> Vec<Mistake> {
        self.list.sort_by(|one, other| {
            (&one.file, one.line, one.column).cmp(&(&other.file, other.line, other.column))
        });
        self.list
    }

    /// Notes a mistake of a whole file, or of the directory.
    pub(crate) fn of_file(&mut self, file: &str, message: impl Into<String>, expected: &str) {
        self.note(MistakeLevel::Error, file, None, message.into(), expected);
    }

    /// Notes of a whole file what may not be meant.
    pub(crate) fn warn_of_file(&mut self, file: &str, message: &str, expected: &str) {
        self.note(MistakeLevel::Warning, file, None, message.to_owned(), expected);
    }

    /// Notes a mistake at a place.
    pub(crate) fn at(
        &mut self,
        source: &Source<'_>,
        span: &Span,
        message: impl Into<String>,
        expected: impl AsRef<str>,
    ) {
        let place = Some((source.text, span));
        self.note(MistakeLevel::Error, source.name, place, message.into(), expected.as_ref());
    }

    /// Notes what may not be meant as it is written.
    pub(crate) fn warn(
        &mut self,
        source: &Source<'_>,
        span: &Span,
        message: impl Into<String>,
        expected: impl AsRef<str>,
    ) {
        let place = Some((source.text, span));
        self.note(MistakeLevel::Warning, source.name, place, message.into(), expected.as_ref());
    }

    fn note(
        &mut self,
        level: MistakeLevel,
        file: &str,
        place: Option<(&str, &Span)>,
        message: String,
        expected: &str,
    ) {
        let count = match level {
            MistakeLevel::Error => &mut self.errors,
            MistakeLevel::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count > MOST {
            return;
        }
        let place = place.map(|(text, span)| Place::new(text, span));
        let mut mistake = Mistake {
            level,
            file: file.to_owned(),
            line: place.as_ref().map(|place| place.line),
            column: place.as_ref().map(|place| place.column),
            message,
            expected: Some(expected.to_owned()).filter(|expected| !expected.is_empty()),
            excerpt: String::new(),
        };
        mistake.excerpt = excerpt(&mistake, place.as_ref());
        self.list.push(mistake);
    }
}

/// A place in a file, and what of its line is shown.
struct Place {
    line: usize,
    column: usize,
    /// The line, or the part of it around the place, with nothing hidden in it.
    shown: String,
    /// The marked part of that, in bytes.
    marked: Span,
}

impl Place {
    fn new(text: &str, span: &Span) -> Self {
        let floor =
            |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let (start, end) = (floor(span.start).unwrap_or(0), floor(span.end).unwrap_or(0));
        let is_break = |c: char| c == '\n' || c == '\r';
        let line_start = text[..start].rfind(is_break).map_or(0, |at| at + 1);
        let line_end = text[start..].find(is_break).map_or(text.len(), |at| start + at);
        let before = &text[..line_start];
        let breaks = before.matches('\n').count()
            + before
                .match_indices('\r')
                .filter(|(at, _)| !before[at + 1..].starts_with('\n'))
                .count();
        let ahead: Vec<char> = text[line_start..start].chars().collect();
        let skipped = ahead.len().saturating_sub(SHOWN);
        let cut = if skipped > 0 { "…" } else { "" };
        let mut shown = cut.to_owned();
        shown.extend(ahead[skipped..].iter().copied().map(shown_as));
        let from = shown.len();
        let marked_end = end.clamp(start, line_end);
        let mut marked: String =
            text[start..marked_end].chars().take(SHOWN).map(shown_as).collect();
        let rest = &text[marked_end..line_end];
        let whole = text[start..marked_end].chars().count() <= SHOWN;
        if marked.is_empty() && rest.is_empty() {
            // the end of a line
            marked.push(' ');
        }
        shown += &marked;
        let to = match marked.is_empty() {
            true => from + rest.chars().next().map_or(0, |c| shown_as(c).len_utf8()),
            false => shown.len(),
        };
        if whole {
            shown.extend(rest.chars().take(SHOWN).map(shown_as));
        }
        if !whole || rest.chars().nth(SHOWN).is_some() {
            shown.push('…');
        }
        Place { line: breaks + 1, column: ahead.len() + 1, shown, marked: from..to }
    }
}

/// A character as it is shown: one that is hidden has a sign in its place, so that what follows keeps its own.
fn shown_as(character: char) -> char {
    match character {
        '\t' => ' ',
        hidden if is_hidden(hidden) => '\u{fffd}',
        character => character,
    }
}

fn excerpt(mistake: &Mistake, place: Option<&Place>) -> String {
    let level = match mistake.level {
        MistakeLevel::Error => Level::ERROR,
        MistakeLevel::Warning => Level::WARNING,
    };
    let shown = |text: &str| crate::visible::visible(text).into_owned();
    let title = match place {
        Some(_) => shown(&mistake.message),
        None => format!("{}: {}", shown(&mistake.file), shown(&mistake.message)),
    };
    let mut group = level.primary_title(title).elements(place.map(|place| {
        let snippet = Snippet::source(place.shown.as_str()).line_start(place.line);
        let snippet = snippet.path(shown(&mistake.file));
        snippet.annotation(AnnotationKind::Primary.span(place.marked.clone()))
    }));
    if let Some(expected) = &mistake.expected {
        group = group.element(Level::HELP.message(shown(expected)));
    }
    let renderer = Renderer::plain().decor_style(DecorStyle::Ascii).term_width(240);
    let drawn = renderer.render(&[group]);
    let Some(place) = place else { return drawn };
    // of a part of a line the drawing counts the columns from its beginning
    let own = place.shown[..place.marked.start].chars().count() + 1;
    let (line, column) = (place.line, place.column);
    drawn.replacen(&format!(":{line}:{own}\n"), &format!(":{line}:{column}\n"), 1)
}
