//! Outcomes of a run: every answer with its verdict, sums for each prompt and model, and the questions on which answers
//! disagree.

use std::collections::BTreeMap;

use serde::Serialize;

use super::interval::wilson;
use super::similarity::groups;
use crate::cache::timings::Timings;

/// Origin of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// From the suite.
    Suite,
    /// The model made it up.
    Generated,
    /// Asks if an answer of the model's own is right; it should say yes.
    Implication,
}

/// One answer.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Origin of the question.
    pub kind: Kind,
    /// The prompt's name.
    pub prompt: String,
    /// The model's name.
    pub model: String,
    /// The state that was asked.
    pub key: String,
    /// The question as the suite has it.
    pub question: String,
    /// As it was asked this time.
    pub wording: String,
    /// The temperature.
    pub temperature: f32,
    /// The seed.
    pub seed: u32,
    /// Answer of the model.
    pub answer: String,
    /// Why it ended.
    pub stop_reason: String,
    /// Why there is no answer.
    pub error: Option<String>,
    /// Number of checks.
    pub checks: usize,
    /// Those that failed, with what was found.
    pub failures: Vec<String>,
    /// Seconds.
    pub time_to_first_token_s: f64,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// The stages.
    pub timings: Timings,
}

impl Outcome {
    /// Returns true if it is an answer and every check holds.
    pub fn passed(&self) -> bool {
        self.error.is_none() && self.failures.is_empty()
    }

    /// Returns true if something is demanded of it: a check, or that there is an answer at all.
    pub fn counts(&self) -> bool {
        self.kind == Kind::Suite && (self.checks > 0 || self.error.is_some())
    }
}

/// Results of a prompt with a model.
#[derive(Debug, Clone, Serialize)]
pub struct Sum {
    /// The prompt's name.
    pub prompt: String,
    /// The model's name.
    pub model: String,
    /// Different questions of the suite.
    pub questions: usize,
    /// Answers of which something is demanded.
    pub answers: usize,
    /// Those that passed.
    pub passed: usize,
    /// The 95 % interval of the pass rate.
    pub interval: (f64, f64),
    /// The median, in seconds.
    pub time_to_first_token_s: f64,
    /// The stages of all answers together.
    pub timings: Timings,
}

/// A question on which answers disagree.
#[derive(Debug, Clone, Serialize)]
pub struct Inconsistent {
    /// Origin of the question.
    pub kind: Kind,
    /// The prompt's name.
    pub prompt: String,
    /// The question as the suite has it.
    pub question: String,
    /// Answers, most frequent first.
    pub variants: Vec<Variant>,
}

/// One of the things that were said.
#[derive(Debug, Clone, Serialize)]
pub struct Variant {
    /// The first of the answers that agree.
    pub answer: String,
    /// The checks passed; nothing where there are none.
    pub passed: Option<bool>,
    /// Models and seeds that gave it, as `gemma, seed 3`.
    pub given_by: Vec<String>,
}

/// The sums, in the order in which prompts and models came.
pub fn sums(outcomes: &[Outcome]) -> Vec<Sum> {
    let mut order: Vec<(&str, &str)> = Vec::new();
    for o in outcomes {
        if !order.contains(&(&o.prompt, &o.model)) {
            order.push((&o.prompt, &o.model));
        }
    }
    let of = |(prompt, model): &(&str, &str)| {
        let mine: Vec<_> = outcomes.iter().filter(|o| o.prompt == *prompt && o.model == *model).collect();
        let counting: Vec<_> = mine.iter().filter(|o| o.counts()).collect();
        let passed = counting.iter().filter(|o| o.passed()).count();
        let suite = mine.iter().filter(|o| o.kind == Kind::Suite);
        let mut questions: Vec<_> = suite.map(|o| &o.question).collect();
        questions.sort();
        questions.dedup();
        let mut timings = Timings::default();
        mine.iter().for_each(|o| timings.absorb(&o.timings));
        Sum {
            prompt: (*prompt).to_owned(),
            model: (*model).to_owned(),
            questions: questions.len(),
            answers: counting.len(),
            passed,
            interval: wilson(passed, counting.len()),
            time_to_first_token_s: median(mine.iter().map(|o| o.time_to_first_token_s).collect()),
            timings,
        }
    };
    order.iter().map(of).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The questions on which answers disagree: over seeds, temperatures, wordings and models. Where there are checks, answers
/// agree if they pass and fail the same ones; else if [`super::agree`] says so.
pub fn inconsistent(outcomes: &[Outcome]) -> Vec<Inconsistent> {
    let mut questions: Vec<(&str, &str)> = Vec::new();
    let asked = outcomes.iter().filter(|o| o.error.is_none() && o.kind != Kind::Implication);
    let asked: Vec<&Outcome> = asked.collect();
    for o in &asked {
        if !questions.contains(&(&o.prompt, &o.question)) {
            questions.push((&o.prompt, &o.question));
        }
    }
    let of = |(prompt, question): (&str, &str)| {
        let answers: Vec<&&Outcome> =
            asked.iter().filter(|o| o.prompt == prompt && o.question == question).collect();
        let mut groups = grouped(&answers);
        groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        let variants = groups.iter().map(|group| {
            let first = answers[group[0]];
            Variant {
                answer: first.answer.trim().to_owned(),
                passed: (first.checks > 0).then(|| first.passed()),
                given_by: group.iter().map(|n| who(answers[*n])).collect(),
            }
        });
        let kind = answers.first().map_or(Kind::Suite, |o| o.kind);
        (groups.len() > 1).then(|| Inconsistent {
            kind,
            prompt: prompt.to_owned(),
            question: question.to_owned(),
            variants: variants.collect(),
        })
    };
    questions.into_iter().filter_map(of).collect()
}

fn grouped(answers: &[&&Outcome]) -> Vec<Vec<usize>> {
    if answers.iter().all(|o| o.checks == 0) {
        return groups(answers.iter().map(|o| o.answer.as_str()));
    }
    // Of a failure only the check's name counts, not what was found.
    let failed = |o: &Outcome| -> Vec<String> {
        o.failures.iter().map(|f| f.split(": found").next().unwrap_or_default().to_owned()).collect()
    };
    let mut by_verdict: BTreeMap<Vec<String>, Vec<usize>> = BTreeMap::new();
    for (n, outcome) in answers.iter().enumerate() {
        by_verdict.entry(failed(outcome)).or_default().push(n);
    }
    by_verdict.into_values().collect()
}

/// Names what tells an answer from the others to the same question.
fn who(o: &Outcome) -> String {
    let wording = if o.wording == o.question { String::new() } else { format!(", asked {:?}", o.wording) };
    let seed = if o.temperature > 0.0 { format!(", seed {}", o.seed) } else { String::new() };
    format!("{}, temperature {}{seed}{wording}", o.model, o.temperature)
}

/// Results of the questions that the model made up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Generated {
    /// The questions.
    pub questions: Vec<Made>,
    /// Answers, one for each wording.
    pub answers: usize,
    /// Questions on which answers disagree.
    pub inconsistent: usize,
    /// Answers that the model says are wrong when it is asked.
    pub contradicted: usize,
}

/// A question that the model made up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// Its text.
    pub question: String,
    /// In how many wordings it was asked.
    pub wordings: usize,
}

impl Generated {
    /// Counts what a model made up, if it was asked to.
    pub fn new(outcomes: &[Outcome], found: &[Inconsistent]) -> Self {
        let made = outcomes.iter().filter(|o| o.kind == Kind::Generated);
        let mut questions: Vec<Made> = Vec::new();
        let mut asked: Vec<(&str, &str, &str)> = Vec::new();
        for o in made.clone() {
            let this = (o.prompt.as_str(), o.model.as_str(), o.question.as_str());
            match asked.iter().position(|known| *known == this) {
                Some(n) => questions[n].wordings += 1,
                None => {
                    asked.push(this);
                    questions.push(Made { question: o.question.clone(), wordings: 1 });
                }
            }
        }
        let implied = outcomes.iter().filter(|o| o.kind == Kind::Implication);
        Self {
            questions,
            answers: made.count(),
            inconsistent: found.iter().filter(|i| i.kind == Kind::Generated).count(),
            contradicted: implied.filter(|o| o.error.is_none() && !o.passed()).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(question: &str, seed: u32, answer: &str, failures: &[&str], checks: usize) -> Outcome {
        Outcome {
            kind: Kind::Suite,
            prompt: "p".into(),
            model: "m".into(),
            key: "k".into(),
            question: question.into(),
            wording: question.into(),
            temperature: 0.8,
            seed,
            answer: answer.into(),
            stop_reason: "eos".into(),
            error: None,
            checks,
            failures: failures.iter().map(|f| (*f).to_owned()).collect(),
            time_to_first_token_s: f64::from(seed),
            answer_tokens: 1,
            timings: Timings::default(),
        }
    }

    #[test]
    fn only_what_is_checked_counts() {
        let all = [
            outcome("a", 0, "x", &[], 1),
            outcome("a", 1, "y", &["contains \"x\": found \"y\""], 1),
            outcome("b", 2, "z", &[], 0),
        ];
        let sums = sums(&all);
        assert_eq!((sums.len(), sums[0].questions, sums[0].answers, sums[0].passed), (1, 2, 2, 1));
        assert_eq!(sums[0].time_to_first_token_s, 1.0);
    }

    #[test]
    fn disagreement_is_of_verdicts_where_there_are_checks_and_of_words_elsewhere() {
        let same = [outcome("a", 0, "Ontario", &[], 1), outcome("a", 1, "It was Ontario, I think", &[], 1)];
        assert!(inconsistent(&same).is_empty());
        let other = [
            outcome("a", 0, "Reno", &["contains \"O\": found \"Reno\""], 1),
            outcome("a", 1, "Ontario", &[], 1),
            outcome("a", 2, "Ontario!", &[], 1),
        ];
        let found = inconsistent(&other);
        assert_eq!(found[0].variants.iter().map(|v| v.given_by.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(found[0].variants[0].passed, Some(true));
        assert_eq!(found[0].variants[1].given_by, ["m, temperature 0.8, seed 0"]);
        let words = [outcome("b", 0, "Dave", &[], 0), outcome("b", 1, "Nora", &[], 0)];
        assert_eq!(inconsistent(&words)[0].variants.len(), 2);
    }
}
