//! Reading a GBNF grammar to find what is wrong with it. The notation is that of llama.cpp's `grammars/README.md`.

use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a grammar: those that come with llama.cpp have some hundreds.
const MAX_BYTES: usize = 1 << 18;
/// Brackets within brackets.
const MAX_DEPTH: usize = 100;
/// Repetitions of one thing; llama.cpp writes each of them out.
const MAX_REPETITIONS: u64 = 2000;

/// Error in a grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the grammar: {problem}")]
pub struct GrammarError {
    /// From 1 on.
    pub line: usize,
    /// Expected syntax.
    pub problem: String,
}

/// Refuses what is no grammar, or has no rule `root`.
pub(super) fn check(text: &str, root: &str) -> Result<(), GrammarError> {
    if text.len() > MAX_BYTES {
        let problem = format!("it has {} bytes, expected at most {MAX_BYTES}", text.len());
        return Err(GrammarError { line: 1, problem });
    }
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        return Err(GrammarError { line, problem: "a zero byte".into() });
    }
    let mut reader = Reader { rest: text, line: 1, rules: BTreeMap::new(), uses: Vec::new() };
    reader.space(true);
    while !reader.rest.is_empty() {
        reader.rule()?;
    }
    let unknown = reader.uses.iter().find(|(name, _)| !reader.rules.contains_key(name));
    if let Some((name, line)) = unknown {
        return Err(GrammarError { line: *line, problem: format!("there is no rule {name:?}") });
    }
    if !reader.rules.contains_key(root) {
        return Err(reader.error(format!("there is no rule {root:?}, with which answers begin")));
    }
    reader.check_left_recursion()
}

/// A rule: where it stands, and the rules that it can begin with.
struct Rule<'t> {
    line: usize,
    begins: Vec<&'t str>,
}

struct Reader<'t> {
    rest: &'t str,
    line: usize,
    rules: BTreeMap<&'t str, Rule<'t>>,
    uses: Vec<(&'t str, usize)>,
}

/// First symbols of an alternative or a symbol, and whether it may be empty.
#[derive(Default)]
struct First<'t> {
    begins: Vec<&'t str>,
    may_be_empty: bool,
}

impl<'t> Reader<'t> {
    fn error(&self, problem: impl Into<String>) -> GrammarError {
        GrammarError { line: self.line, problem: problem.into() }
    }

    /// Describes the next character, for people.
    fn next(&self) -> String {
        match self.rest.chars().next() {
            None => "the end of the file".into(),
            Some('\n' | '\r') => "the end of the line".into(),
            Some(c) => format!("{c:?}"),
        }
    }

    fn skip(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest.starts_with(text);
        if found {
            self.skip(text.len());
        }
        found
    }

    /// Passes over white space and comments.
    fn space(&mut self, newlines: bool) {
        loop {
            let blank = |c: char| c == ' ' || c == '\t' || newlines && (c == '\n' || c == '\r');
            let length = self.rest.find(|c| !blank(c)).unwrap_or(self.rest.len());
            self.skip(length);
            if !self.rest.starts_with('#') {
                return;
            }
            let comment = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
            self.skip(comment);
        }
    }

    fn name(&mut self) -> Option<&'t str> {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let length = self.rest.find(|c| !letter(c)).unwrap_or(self.rest.len());
        (length > 0).then(|| self.skip(length))
    }

    fn rule(&mut self) -> Result<(), GrammarError> {
        let line = self.line;
        let Some(name) = self.name() else {
            return Err(self.error(format!("expected the name of a rule, found {}", self.next())));
        };
        if let Some(first) = self.rules.get(name) {
            return Err(self.error(format!("rule {name:?} is there already, in line {}", first.line)));
        }
        self.space(false);
        if !self.eat("::=") {
            return Err(self.error(format!("expected ::= behind {name:?}, found {}", self.next())));
        }
        self.space(true);
        let first = self.alternatives(0)?;
        self.space(false);
        if !self.rest.is_empty() && !self.rest.starts_with(['\n', '\r']) {
            return Err(self.error(format!("expected the end of rule {name:?}, found {}", self.next())));
        }
        self.space(true);
        self.rules.insert(name, Rule { line, begins: first.begins });
        Ok(())
    }

    fn alternatives(&mut self, depth: usize) -> Result<First<'t>, GrammarError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("more than {MAX_DEPTH} brackets within brackets")));
        }
        let mut first = self.sequence(depth)?;
        while self.eat("|") {
            self.space(true);
            let other = self.sequence(depth)?;
            first.begins.extend(other.begins);
            first.may_be_empty |= other.may_be_empty;
        }
        Ok(first)
    }

    fn sequence(&mut self, depth: usize) -> Result<First<'t>, GrammarError> {
        let mut all = First { begins: Vec::new(), may_be_empty: true };
        loop {
            let nested = depth > 0;
            let Some(mut symbol) = self.symbol(depth)? else { return Ok(all) };
            self.space(nested);
            symbol.may_be_empty |= self.repetition()?;
            self.space(nested);
            if all.may_be_empty {
                all.begins.extend(symbol.begins);
                all.may_be_empty = symbol.may_be_empty;
            }
        }
    }

    /// A literal, a class, a reference, a group, any character or a token; nothing at the sequence's end.
    fn symbol(&mut self, depth: usize) -> Result<Option<First<'t>>, GrammarError> {
        let mut first = First::default();
        if self.eat("\"") {
            first.may_be_empty = !self.characters('"')?;
        } else if self.eat("[") {
            self.eat("^");
            if !self.characters(']')? {
                return Err(self.error("an empty class of characters"));
            }
        } else if self.eat("(") {
            self.space(true);
            first = self.alternatives(depth + 1)?;
            self.space(true);
            if !self.eat(")") {
                return Err(self.error(format!("expected ), found {}", self.next())));
            }
        } else if self.eat(".") {
        } else if self.rest.starts_with(['<', '!']) {
            self.token()?;
        } else if let Some(name) = self.name() {
            self.uses.push((name, self.line));
            first.begins.push(name);
        } else {
            return Ok(None);
        }
        Ok(Some(first))
    }

    /// A token by its number, as `<[1000]>`. Those by their text depend on the vocabulary.
    fn token(&mut self) -> Result<(), GrammarError> {
        self.eat("!");
        let number = self.rest.strip_prefix("<[").and_then(|rest| rest.split_once("]>"));
        match number.map(|(digits, _)| digits) {
            Some(digits) if digits.parse::<i32>().is_ok_and(|n| n >= 0) => {
                self.skip(digits.len() + 4);
                Ok(())
            }
            _ => Err(self.error("expected a token by its number, as <[1000]>")),
        }
    }

    /// Characters up to `end`, with escapes. Says whether there are any.
    fn characters(&mut self, end: char) -> Result<bool, GrammarError> {
        let mut any = false;
        loop {
            match self.rest.chars().next() {
                None => return Err(self.error(format!("expected {end}, found the end of the file"))),
                Some(c) if c == end => {
                    self.skip(1);
                    return Ok(any);
                }
                Some('\\') => self.escape()?,
                Some(c) => drop(self.skip(c.len_utf8())),
            }
            any = true;
        }
    }

    fn escape(&mut self) -> Result<(), GrammarError> {
        let kind = self.rest[1..].chars().next();
        let digits = match kind {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('t' | 'r' | 'n' | '\\' | '"' | '[' | ']') => 0,
            _ => {
                let found: String = self.rest.chars().take(2).collect();
                return Err(self.error(format!("unknown escape {found}")));
            }
        };
        let hex = self.rest.get(2..2 + digits).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex {
            Some(_) => drop(self.skip(2 + digits)),
            None => return Err(self.error(format!("expected {digits} hexadecimal digits"))),
        }
        Ok(())
    }

    /// Skips the repetition behind a symbol, if there is one. Returns true if the symbol may then be left out.
    fn repetition(&mut self) -> Result<bool, GrammarError> {
        if self.eat("*") || self.eat("?") {
            return Ok(true);
        }
        if self.eat("+") || !self.eat("{") {
            return Ok(false);
        }
        self.space(true);
        let Some(least) = self.number()? else {
            return Err(self.error(format!("expected a number behind {{, found {}", self.next())));
        };
        self.space(true);
        let most = if self.eat(",") {
            self.space(true);
            self.number()?
        } else {
            Some(least)
        };
        self.space(true);
        if !self.eat("}") {
            return Err(self.error(format!("expected }}, found {}", self.next())));
        }
        if most.is_some_and(|most| most < least) {
            return Err(self.error(format!("{{{least},{}}} ends below its beginning", most.unwrap_or(0))));
        }
        Ok(least == 0)
    }

    fn number(&mut self) -> Result<Option<u64>, GrammarError> {
        let length = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        if length == 0 {
            return Ok(None);
        }
        let digits = self.skip(length);
        let number = digits.parse().ok().filter(|n| *n <= MAX_REPETITIONS);
        number.map(Some).ok_or_else(|| self.error(format!("{digits} repetitions, at most {MAX_REPETITIONS}")))
    }

    /// A rule that begins with itself never ends. What hides behind rules that may be empty is left to llama.cpp.
    fn check_left_recursion(&self) -> Result<(), GrammarError> {
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for name in self.rules.keys() {
            self.follow(name, &mut done)?;
        }
        Ok(())
    }

    /// Follows what a rule begins with, by hand: a grammar may be deeper than the stack.
    fn follow(&self, start: &'t str, done: &mut BTreeSet<&'t str>) -> Result<(), GrammarError> {
        let begins = |name: &str| self.rules.get(name).map_or(&[][..], |rule| &rule.begins);
        // The way to here: each rule with how many of its beginnings were looked at.
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_way = BTreeSet::from([start]);
        while let Some((name, looked)) = way.last_mut() {
            if done.contains(name) || *looked >= begins(name).len() {
                done.insert(name);
                on_way.remove(name);
                way.pop();
                continue;
            }
            let next = begins(name)[*looked];
            *looked += 1;
            if on_way.contains(next) {
                let line = self.rules.get(next).map_or(1, |rule| rule.line);
                let problem = format!("rule {next:?} begins with itself (left recursion); let it end so");
                return Err(GrammarError { line, problem });
            }
            if !done.contains(next) {
                on_way.insert(next);
                way.push((next, 0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        check(text, "root").map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn grammars_as_they_are_written_pass() {
        for text in [
            "root ::= \"yes\" | \"no\"",
            "# a comment\nroot ::= item+ # another\nitem ::= \"- \" [^\\n]{1,80} \"\\n\"\n",
            "root ::= (\n  a |\n  b\n)*\na ::= [a-zA-Z0-9_\\]-]? \"\\x41\\u00e9\"\nb ::= . <[12]> !<[13]>\n",
            "root ::=\n  \"\" |\n  \"x\" root\n",
            "ws ::= [ \\t\\n]*\nroot ::= \"{\" ws \"}\"\r\n",
        ] {
            assert_eq!(problem(text), "", "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let cases = [
            ("", "line 1 of the grammar: there is no rule \"root\""),
            ("start ::= \"a\"", "there is no rule \"root\""),
            ("root ::= word", "line 1 of the grammar: there is no rule \"word\""),
            ("root ::= \"a\nb", "expected \", found the end of the file"),
            ("root ::= a\na := \"x\"", "line 2 of the grammar: expected ::="),
            ("root ::= (\"a\"", "expected ), found the end"),
            ("root ::= \"a\" )", "expected the end of rule \"root\", found ')'"),
            ("root ::= * \"a\"", "expected the end of rule"),
            ("root ::= []", "an empty class"),
            ("root ::= \"\\q\"", "unknown escape \\q"),
            ("root ::= \"\\x4\"", "expected 2 hexadecimal digits"),
            ("root ::= \"a\"{3,1}", "{3,1} ends below its beginning"),
            ("root ::= \"a\"{99999999999999999999}", "repetitions, at most 2000"),
            ("root ::= \"a\"{x}", "expected a number behind {"),
            ("root ::= <think>", "by its number"),
            ("root ::= \"a\"\nroot ::= \"b\"", "rule \"root\" is there already, in line 1"),
            ("root ::= a\na ::= \"x\"? b\nb ::= a \"y\"", "begins with itself"),
            ("root ::= root \"a\" | \"a\"", "rule \"root\" begins with itself"),
        ];
        for (text, expected) in cases {
            assert!(problem(text).contains(expected), "{text:?}: {}", problem(text));
        }
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(1000), ")".repeat(1000));
        assert!(problem(&deep).contains("brackets within brackets"));
        let chain: String = (0..8000).map(|n| format!("r{n} ::= \"x\"? r{}\n", n + 1)).collect();
        assert_eq!(problem(&format!("{chain}r8000 ::= \"y\"\nroot ::= r0\n")), "");
        assert!(problem(&"#".repeat(1 << 19)).contains("expected at most"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic(text in "(root|a|::=|[\"\\[\\](){}|*+?.<>!#\\\\,^0-9x \n-]){0,60}") {
            let _ = check(&text, "root");
        }
    }
}
