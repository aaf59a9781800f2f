//! The remedies that the program can print, read from its sources: every text that ends up in `Failure::next`.
//!
//! A text is in the inventory if it is passed where a function has a parameter `next` or `remedy`, or assigned
//! to a variable or field of that name. What such an expression takes its parts from (constants, variables
//! and functions of the same file) belongs to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// What a text is called that says what to do next.
const NAMES: [&str; 2] = ["next", "remedy"];

/// The texts of all remedies, each with the file that has it first.
pub fn remedies() -> BTreeMap<String, String> {
    let files: Vec<Source> =
        sources(Path::new(SOURCE)).iter().map(|path| Source::read(path)).collect();
    let mut shared = Carriers::new();
    for file in &files {
        shared.extend(
            file.carriers.iter().filter_map(|(name, at)| Some((name.clone(), Some((*at)?)))),
        );
    }
    let mut found = BTreeMap::new();
    for file in &files {
        let mut search = Search {
            file,
            shared: &shared,
            variables: Variables::default(),
            found: BTreeSet::new(),
        };
        search.all(&file.tokens);
        for text in search.found {
            found.entry(text).or_insert_with(|| file.name.clone());
        }
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    let mut paths: Vec<PathBuf> = entries.flat_map(of).collect();
    paths.retain(|path| path.extension().is_some_and(|rs| rs == "rs"));
    // the last one writes out what the others say
    let others = ["tests.rs", "pages.rs", "text.rs"];
    paths.retain(|path| !others.iter().any(|other| path.ends_with(other)));
    // what is expected in a file of upgrades is told with its place; only what becomes of a run is a remedy
    let of_files = Path::new(SOURCE).join("files");
    paths.retain(|path| !path.starts_with(&of_files) || path.ends_with("read.rs"));
    paths.sort();
    paths
}

/// Functions and closures by name, with the place of their parameter that is a remedy, if they have one.
type Carriers = BTreeMap<String, Option<usize>>;

struct Source {
    name: String,
    tokens: Vec<TokenTree>,
    carriers: Carriers,
    /// What constants and functions are made of, by name.
    parts: Parts,
}

type Parts = BTreeMap<String, Vec<TokenTree>>;

impl Source {
    fn read(path: &Path) -> Source {
        let text = fs::read_to_string(path).unwrap();
        let stream: TokenStream =
            text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.strip_prefix(SOURCE).unwrap().display().to_string();
        let tokens = without_tests(stream.into_iter().collect());
        let mut source = Source { name, tokens, carriers: Carriers::new(), parts: Parts::new() };
        source.define(&source.tokens.clone());
        source
    }

    /// Notes what the tokens define.
    fn define(&mut self, tokens: &[TokenTree]) {
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(word) if word == "fn" => {
                    let name = tokens[at + 1].to_string();
                    let rest = &tokens[at + 2..];
                    let Some(parameters) =
                        rest.iter().position(|it| group(it, Delimiter::Parenthesis).is_some())
                    else {
                        continue;
                    };
                    let inside = group(&rest[parameters], Delimiter::Parenthesis).unwrap();
                    self.carriers.insert(name.clone(), place(&inside));
                    let body = rest.iter().find_map(|it| group(it, Delimiter::Brace));
                    // a text, or two of which the second says what to do
                    let head: String = rest[parameters + 1..]
                        .iter()
                        .take_while(|it| group(it, Delimiter::Brace).is_none())
                        .map(|it| it.to_string().replace(' ', ""))
                        .collect();
                    if ["->String", "->&'staticstr", "->Option<String>"].contains(&head.as_str()) {
                        self.parts.insert(name, body.unwrap_or_default());
                    } else if head.starts_with("->(&'staticstr") {
                        self.parts.insert(name, seconds(&body.unwrap_or_default(), 1));
                    }
                }
                TokenTree::Ident(word) if word == "const" => {
                    let statement = &tokens[at + 1..until(tokens, at + 1, ';')];
                    if let Some((name, value)) = binding(statement) {
                        self.parts.insert(name, value.to_vec());
                    }
                }
                _ => {}
            }
            if let TokenTree::Group(group) = token {
                self.define(&inside(group));
            }
        }
    }
}

/// The name and the value of `name = value` and the like.
fn binding(statement: &[TokenTree]) -> Option<(String, &[TokenTree])> {
    let equals = statement.iter().position(is_assignment)?;
    let name = statement[..equals].iter().find(|it| *it.to_string() != *"mut")?;
    matches!(name, TokenTree::Ident(_)).then(|| (name.to_string(), &statement[equals + 1..]))
}

/// The variables of a function.
#[derive(Default)]
struct Variables {
    /// What texts are made of.
    parts: Parts,
    closures: Carriers,
}

impl Variables {
    fn note(&mut self, tokens: &[TokenTree]) {
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(word) if word == "let" => {
                    self.bind(&tokens[at + 1..until(tokens, at + 1, ';')]);
                }
                TokenTree::Group(group) => self.note(&inside(group)),
                _ => {}
            }
        }
    }

    fn bind(&mut self, statement: &[TokenTree]) {
        let names = statement.first().and_then(|it| group(it, Delimiter::Parenthesis));
        if let Some((name, value)) = binding(statement) {
            let begins = value.first().map(|it| it.to_string()).unwrap_or_default();
            if let Some(begin) = value.iter().take(2).position(|it| is(it, '|')) {
                let end = until(value, begin + 1, '|');
                self.closures.insert(name, place(&value[begin + 1..end]));
            } else if begins.starts_with('"') || ["format", "match", "if"].contains(&&*begins) {
                self.parts.entry(name).or_default().extend_from_slice(value);
            }
        } else if let Some(names) = names {
            for (index, part) in split(&names).into_iter().enumerate() {
                if let [TokenTree::Ident(name)] = part.as_slice() {
                    let values = self.parts.entry(name.to_string()).or_default();
                    values.extend(seconds(statement, index));
                    // of a function that returns both
                    values.extend(statement.iter().skip(2).take(1).cloned());
                }
            }
        }
    }
}

struct Search<'a> {
    file: &'a Source,
    shared: &'a Carriers,
    variables: Variables,
    found: BTreeSet<String>,
}

impl Search<'_> {
    fn all(&mut self, tokens: &[TokenTree]) {
        for (at, token) in tokens.iter().enumerate() {
            if let TokenTree::Group(group) = token {
                self.all(&inside(group));
            }
            let TokenTree::Ident(word) = token else { continue };
            let word = word.to_string();
            let before = at.checked_sub(1).map(|at| tokens[at].to_string()).unwrap_or_default();
            let Some(after) = tokens.get(at + 1) else { continue };
            if before == "fn" {
                // the body of `fn next` is what it says
                if NAMES.contains(&word.as_str())
                    && let Some(body) = self.file.parts.get(&word)
                {
                    self.texts(&body.clone(), &mut BTreeSet::new());
                }
                self.variables = Variables::default();
                let body = tokens[at..].iter().find_map(|it| group(it, Delimiter::Brace));
                self.variables.note(&body.unwrap_or_default());
                continue;
            }
            if let Some(arguments) = group(after, Delimiter::Parenthesis) {
                let of_failure =
                    before == ":" && at >= 3 && tokens[at - 3].to_string() == "Failure";
                let carrier = match (of_failure, word.as_str()) {
                    (true, "new") => Some(2),
                    // what to do about an option that is refused
                    (_, "option") if after.to_string().contains("Refused") => Some(2),
                    (_, "new") => None,
                    _ => {
                        let known = [&self.variables.closures, &self.file.carriers, self.shared];
                        known.iter().find_map(|known| known.get(&word)).copied().flatten()
                    }
                };
                if let Some(argument) =
                    carrier.and_then(|index| split(&arguments).into_iter().nth(index))
                {
                    self.texts(&argument, &mut BTreeSet::new());
                }
            } else if NAMES.contains(&word.as_str()) {
                let value = match () {
                    _ if is(after, ':') && !tokens.get(at + 2).is_some_and(|it| is(it, ':')) => {
                        &tokens[at + 2..until(tokens, at + 2, ',')]
                    }
                    _ if (before == "let" || before == ".")
                        && (is_assignment(after) || is(after, '+')) =>
                    {
                        &tokens[at + 2..until(tokens, at + 2, ';')]
                    }
                    _ => continue,
                };
                // not a parameter of a closure
                if !value.iter().any(|it| is(it, '|')) {
                    self.texts(value, &mut BTreeSet::new());
                }
            }
        }
    }

    /// The texts of an expression, with those of its parts.
    fn texts(&mut self, tokens: &[TokenTree], seen: &mut BTreeSet<String>) {
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    self.texts(&inside(group), seen);
                }
                TokenTree::Literal(literal) => {
                    let Some(text) = unquoted(&literal.to_string()) else { continue };
                    for name in inserted(&text) {
                        self.part(&name, seen);
                    }
                    if text.contains(' ') && text.chars().filter(|c| c.is_alphabetic()).count() > 3
                    {
                        self.found.insert(text);
                    }
                }
                // the text of a field is not that of a variable of the same name
                TokenTree::Ident(_) if at > 0 && is(&tokens[at - 1], '.') => {}
                TokenTree::Ident(name) => self.part(&name.to_string(), seen),
                TokenTree::Punct(_) => {}
            }
        }
    }

    fn part(&mut self, name: &str, seen: &mut BTreeSet<String>) {
        if seen.insert(name.to_owned()) {
            let parts = [self.variables.parts.get(name), self.file.parts.get(name)];
            for part in parts.map(Option::<&Vec<_>>::cloned).into_iter().flatten() {
                self.texts(&part, seen);
            }
        }
    }
}

fn inside(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

fn group(token: &TokenTree, delimiter: Delimiter) -> Option<Vec<TokenTree>> {
    match token {
        TokenTree::Group(group) if group.delimiter() == delimiter => {
            Some(group.stream().into_iter().collect())
        }
        _ => None,
    }
}

fn is(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// A single `=`.
fn is_assignment(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == '=' && punct.spacing() == proc_macro2::Spacing::Alone)
}

fn until(tokens: &[TokenTree], from: usize, sign: char) -> usize {
    let end = tokens[from.min(tokens.len())..].iter().position(|it| is(it, sign));
    end.map_or(tokens.len(), |end| from + end)
}

/// What commas separate; those between angle brackets do not.
fn split(tokens: &[TokenTree]) -> Vec<Vec<TokenTree>> {
    let (mut parts, mut depth) = (vec![vec![]], 0_i32);
    let mut before = ' ';
    for token in tokens {
        if let TokenTree::Punct(punct) = token {
            match punct.as_char() {
                '<' => depth += 1,
                '>' if before != '-' && before != '=' => depth -= 1,
                ',' if depth <= 0 => {
                    parts.push(vec![]);
                    before = ',';
                    continue;
                }
                _ => {}
            }
            before = punct.as_char();
        } else {
            before = ' ';
        }
        parts.last_mut().unwrap().push(token.clone());
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// The place of the parameter that is a remedy.
fn place(parameters: &[TokenTree]) -> Option<usize> {
    let parts = split(parameters).into_iter();
    let parts = parts.filter(|part| !part.iter().take(3).any(|it| it.to_string() == "self"));
    parts
        .into_iter()
        .position(|part| part.first().is_some_and(|it| NAMES.contains(&it.to_string().as_str())))
}

/// Of every tuple in the tokens the part at `index`.
fn seconds(tokens: &[TokenTree], index: usize) -> Vec<TokenTree> {
    let mut found = Vec::new();
    for token in tokens {
        let TokenTree::Group(inner) = token else { continue };
        let inside: Vec<TokenTree> = inner.stream().into_iter().collect();
        let parts = split(&inside);
        let text = |part: &Vec<TokenTree>| matches!(part.first(), Some(TokenTree::Literal(_)));
        if inner.delimiter() == Delimiter::Parenthesis
            && parts.len() > 1
            && parts.get(index).is_some_and(text)
        {
            found.extend(parts[index].clone());
        } else {
            found.extend(seconds(&inside, index));
        }
    }
    found
}

fn without_tests(tokens: Vec<TokenTree>) -> Vec<TokenTree> {
    let (mut kept, mut skipping) = (Vec::new(), false);
    for token in tokens {
        if token.to_string().replace(' ', "") == "[cfg(test)]" {
            skipping = true;
        }
        let ends = is(&token, ';') || group(&token, Delimiter::Brace).is_some();
        if !skipping {
            kept.push(token);
        } else if ends {
            skipping = false;
        }
    }
    kept
}

/// The text of a string literal.
fn unquoted(literal: &str) -> Option<String> {
    let inside = literal.strip_prefix('"')?.strip_suffix('"')?;
    let (mut text, mut chars) = (String::new(), inside.chars().peekable());
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('\n')) => while chars.next_if(|c| c.is_whitespace()).is_some() {},
            ('\\', Some('n')) => {
                chars.next();
                text.push('\n');
            }
            ('\\', Some(_)) => text.extend(chars.next()),
            (c, _) => text.push(c),
        }
    }
    Some(text)
}

/// The variables that a format string names.
fn inserted(text: &str) -> Vec<String> {
    let parts = text.split('{').skip(1).filter_map(|part| part.split(['}', ':']).next());
    parts.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
