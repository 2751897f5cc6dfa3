//! A suite: prompts, the questions to each, and what the answers must be. `docs/guide/eval.md` describes the file.

use std::path::PathBuf;

use serde::Deserialize;

use super::check::Check;

/// A suite as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Suite {
    /// Names or files of models; without any, the one of the command line.
    #[serde(default)]
    pub models: Vec<PathBuf>,
    /// Seeds for each question and temperature.
    #[serde(default = "one")]
    pub trials: u32,
    /// The first seed.
    #[serde(default)]
    pub seed: u32,
    /// One or several temperatures; at 0 the seed changes nothing, so there is one trial.
    #[serde(default)]
    pub temperature: OneOrMany<f32>,
    /// Tokens of an answer at most.
    #[serde(default = "usual_length")]
    pub max_tokens: usize,
    /// Texts that end an answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// The prompts.
    pub prompts: Vec<PromptCase>,
}

/// A prompt and its questions.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PromptCase {
    /// For people; the file's name if it is not given.
    pub name: Option<String>,
    /// The file, from the suite's folder on.
    pub file: Option<PathBuf>,
    /// Or the text itself.
    pub text: Option<String>,
    /// Taken as it is, without a chat template.
    #[serde(default)]
    pub raw: bool,
    /// With `raw`: what a question is put into.
    pub question_format: Option<String>,
    /// The prompt is the user's and not the system's.
    #[serde(default)]
    pub user: bool,
    /// A system message beside a prompt that is the user's.
    pub system: Option<String>,
    /// A file with a chat template instead of the model's own, from the suite's folder on.
    pub template: Option<PathBuf>,
    /// Further variables of the template, as `enable_thinking`.
    #[serde(default)]
    pub template_args: serde_json::Map<String, serde_json::Value>,
    /// The date that the template gets when it asks for today's, as `2026-01-31`.
    pub date: Option<String>,
    /// Questions.
    #[serde(default)]
    pub questions: Vec<QuestionCase>,
}

/// A question and what its answers must be.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct QuestionCase {
    /// The question.
    pub ask: String,
    /// The same in other words: the answers must pass the same checks, and agree.
    #[serde(default)]
    pub also: Vec<String>,
    /// Checks of each answer.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// A JSON schema that answers follow, from the suite's folder on.
    pub json_schema: Option<PathBuf>,
    /// A grammar that answers follow.
    pub grammar: Option<PathBuf>,
    /// Tokens of an answer at most, instead of the suite's.
    pub max_tokens: Option<usize>,
}

/// A value or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a number or a list of numbers")]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T: Default> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::One(T::default())
    }
}

impl<T: Copy> OneOrMany<T> {
    /// All of them.
    pub fn all(&self) -> Vec<T> {
        match self {
            Self::One(one) => vec![*one],
            Self::Many(all) => all.clone(),
        }
    }
}

fn one() -> u32 {
    1
}

fn usual_length() -> usize {
    256
}

impl Suite {
    /// Reads a suite.
    ///
    /// # Errors
    /// What is wrong with it, and where; for an unknown key the nearest one that there is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let suite: Self = toml::from_str(text).map_err(|e| explained(&e))?;
        match suite.problem() {
            Some(problem) => Err(problem),
            None => Ok(suite),
        }
    }

    fn problem(&self) -> Option<String> {
        if self.prompts.is_empty() {
            return Some("it has no [[prompts]]".into());
        }
        if !(1..=1000).contains(&self.trials) {
            return Some(format!("trials = {}: expected 1 to 1000", self.trials));
        }
        let temperatures = self.temperature.all();
        if temperatures.is_empty() || temperatures.iter().any(|t| !(0.0..=100.0).contains(t)) {
            return Some("temperature: expected numbers from 0 to 100".into());
        }
        if self.max_tokens == 0 {
            return Some("max-tokens = 0: an answer needs one at least".into());
        }
        if self.stop.iter().any(String::is_empty) {
            return Some("stop: a text is empty".into());
        }
        let names: Vec<String> = self.prompts.iter().map(PromptCase::label).collect();
        if let Some(twice) = twice(&names) {
            return Some(format!("two prompts are called {twice:?}; give one of them another name"));
        }
        self.prompts.iter().enumerate().find_map(|(n, prompt)| prompt.problem(n))
    }
}

/// The first text that is there twice.
fn twice(texts: &[String]) -> Option<&String> {
    texts.iter().enumerate().find(|(n, text)| texts[..*n].contains(text)).map(|(_, text)| text)
}

impl PromptCase {
    /// The name that is shown.
    pub fn label(&self) -> String {
        let stem = || self.file.as_ref()?.file_stem().map(|s| s.to_string_lossy().into_owned());
        self.name.clone().or_else(stem).unwrap_or_else(|| "text".into())
    }

    fn problem(&self, number: usize) -> Option<String> {
        let place = format!("prompt {} ({})", number + 1, self.label());
        let problem = match (&self.file, &self.text) {
            (None, None) => Some("it needs a file or a text"),
            (Some(_), Some(_)) => Some("it has a file and a text; one is enough"),
            _ if self.raw && (self.user || self.system.is_some()) => Some("raw goes without user and system"),
            _ if self.raw
                && (self.template.is_some() || self.date.is_some() || !self.template_args.is_empty()) =>
            {
                Some("raw goes without template, template-args and date")
            }
            _ if !self.raw && self.question_format.is_some() => Some("question-format goes with raw"),
            _ => None,
        };
        if let Some(problem) = problem {
            return Some(format!("{place}: {problem}"));
        }
        let asked: Vec<String> = self.questions.iter().map(|q| q.ask.clone()).collect();
        if let Some(twice) = twice(&asked) {
            return Some(format!("{place}: the question {twice:?} is there twice; put all checks into one"));
        }
        self.questions.iter().find_map(|question| {
            let problem = question.problem()?;
            Some(format!("{place}, question {:?}: {problem}", question.ask))
        })
    }
}

impl QuestionCase {
    fn problem(&self) -> Option<String> {
        if self.ask.trim().is_empty() || self.also.iter().any(|q| q.trim().is_empty()) {
            return Some("a question is empty".into());
        }
        if self.json_schema.is_some() && self.grammar.is_some() {
            return Some("json-schema and grammar exclude each other".into());
        }
        if self.max_tokens == Some(0) {
            return Some("max-tokens = 0: an answer needs one at least".into());
        }
        self.checks.iter().find_map(Check::problem)
    }
}

/// The message of a TOML error; an unknown key comes with the nearest known one.
fn explained(error: &toml::de::Error) -> String {
    // Rust's names of numbers say nothing to others.
    let text = ["expected usize", "expected u32", "expected f32", "expected f64"];
    let text = text.into_iter().fold(error.to_string(), |text, type_| {
        let number = if type_.contains('f') { "expected a number" } else { "expected a whole number" };
        text.replace(type_, number)
    });
    let message = error.message();
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next().filter(|_| message.starts_with("unknown field")) else {
        return text.trim_end().to_owned();
    };
    let nearest = names.map(|name| (strsim::damerau_levenshtein(unknown, name), name)).min();
    let close = |distance: usize| distance <= unknown.len().div_ceil(2);
    let advice =
        nearest.filter(|(distance, _)| close(*distance)).map(|(_, name)| format!("did you mean `{name}`?"));
    format!("{}\n{}", text.trim_end(), advice.unwrap_or_default()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
        models = ['a.gguf']
        trials = 3
        temperature = [0.0, 0.8]
        [[prompts]]
        file = 'data/aviation.txt'
        [[prompts.questions]]
        ask = 'Where?'
        also = ['Where to?']
        checks = [{ contains = 'Ontario' }, { not-contains = 'Reno', ignore-case = true }]
    ";

    #[test]
    fn a_suite_is_read() {
        let suite = Suite::parse(GOOD).unwrap();
        assert_eq!((suite.trials, suite.temperature.all()), (3, vec![0.0, 0.8]));
        assert_eq!(suite.prompts[0].label(), "aviation");
        assert_eq!(suite.prompts[0].questions[0].checks.len(), 2);
        assert_eq!(Suite::parse("[[prompts]]\ntext = 'a'").unwrap().temperature.all(), [0.0]);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_one() {
        let wrong = |from: &str, to: &str| Suite::parse(&GOOD.replace(from, to)).unwrap_err();
        let error = wrong("trials", "trails");
        assert!(error.contains("`trails`") && error.contains("did you mean `trials`?"), "{error}");
        assert!(error.contains("line 3"), "{error}");
        assert!(wrong("contains = 'On", "contain = 'On").contains("did you mean `contains`?"));
        assert!(wrong("also", "alsso").contains("did you mean `also`?"));
        assert!(!wrong("trials", "zzzzzzzz").contains("did you mean"));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_place() {
        let wrong = |from: &str, to: &str| Suite::parse(&GOOD.replace(from, to)).unwrap_err();
        assert!(wrong("trials = 3", "trials = 0").contains("expected 1 to 1000"));
        assert!(wrong("[0.0, 0.8]", "[-1.0]").contains("from 0 to 100"));
        assert!(wrong("file = 'data/aviation.txt'", "").contains("needs a file or a text"));
        assert!(wrong("'Where?'", "' '").contains("a question is empty"));
        assert!(wrong("contains = 'Ontario'", "regex = '['").contains("question \"Where?\": regex"));
        assert!(wrong("[0.0, 0.8]", "'hot'").contains("expected a number or a list"));
        let twice = GOOD.to_owned() + "[[prompts.questions]]\nask = 'Where?'\n";
        assert!(Suite::parse(&twice).unwrap_err().contains("is there twice"));
        let twins = GOOD.to_owned() + "[[prompts]]\nname = 'aviation'\ntext = 'a'";
        assert!(Suite::parse(&twins).unwrap_err().contains("two prompts"));
        assert!(Suite::parse("").unwrap_err().contains("prompts"));
        assert!(Suite::parse("prompts = []").unwrap_err().contains("no [[prompts]]"));
        assert!(Suite::parse("[[prompts]").unwrap_err().contains("line 1"));
    }
}
