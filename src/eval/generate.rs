//! Questions that the model makes up itself: asked in several wordings, and whether it stands by its answers.

use anyhow::Result;

use super::asked::Asked;
use super::check::Check;
use super::outcome::Kind;
use super::plan::PlannedQuestion;
use super::similarity::shares_content;
use super::suite::QuestionCase;
use crate::cache::progress::{Progress, Unit};
use pcache_engine::constraint::{Constraint, MatcherFactory};
use pcache_engine::generate::Sampling;

/// Times that the model is asked for questions, at most.
const TRIES: u32 = 4;
/// Other wordings of each question.
const WORDINGS: u32 = 2;
/// The temperature at which questions are made up: at 0 all wordings would be one.
const INVENTIVE: f32 = 0.8;

/// One sentence: a question, and no chatter before it.
const SENTENCE: &str = "[A-Z] [^.!:;?()\\n]{8,110}";

/// So many questions, one a line.
fn questions_grammar(count: usize) -> String {
    format!("root ::= line{{1,{count}}}\nline ::= {SENTENCE} \"?\\n\"\n")
}

fn question_grammar() -> String {
    format!("root ::= {SENTENCE} \"?\"\n")
}

const YES_OR_NO: &str = "root ::= \"Yes\" | \"No\"\n";

/// Lets the model make up `count` questions about its prompt and ask each in several wordings; then it is asked whether
/// what it answered is right.
pub fn run(asked: &mut Asked<'_, '_>, count: usize) -> Result<()> {
    let progress = asked.call.progress();
    let most = u64::from(TRIES) + count as u64 * u64::from(WORDINGS);
    progress.start(&format!("making up questions ({})", asked.prompt), most, Unit::Answers);
    let made = questions(asked, count, progress.as_ref());
    progress.finish();
    let made = made?;
    let total: usize = made.iter().map(|question| 1 + question.case.also.len()).sum();
    progress.start(&format!("asking them ({})", asked.prompt), total as u64, Unit::Answers);
    let mut done = 0;
    let contradicted = made.iter().try_for_each(|question| {
        contradict(asked, question, || {
            done += 1;
            progress.set(done);
        })
    });
    progress.finish();
    asked.opened.matchers = None;
    contradicted
}

/// Questions with their wordings.
fn questions(
    asked: &mut Asked<'_, '_>,
    count: usize,
    progress: &dyn Progress,
) -> Result<Vec<PlannedQuestion>> {
    let wish = format!(
        "Write {count} different short questions that the text above answers. One question a line, nothing else."
    );
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress.set(done);
    };
    // Several tries: small models repeat themselves.
    let mut found: Vec<String> = Vec::new();
    for seed in 0..TRIES {
        step();
        if found.len() == count {
            continue;
        }
        let text = constrained(asked, &wish, &questions_grammar(count), &inventive(seed, 48 * count))?;
        for line in text.lines().map(str::trim).filter(|l| l.ends_with('?')) {
            if found.len() < count
                && !is_about_asking(line)
                && !is_statement(line)
                && !found.iter().any(|q| q.eq_ignore_ascii_case(line))
            {
                found.push(line.to_owned());
            }
        }
    }
    let mut questions = Vec::new();
    for ask in found {
        let mut also: Vec<String> = Vec::new();
        for seed in 0..WORDINGS {
            let wish = format!("Ask the same in other words, as one question: {ask}");
            let text = constrained(asked, &wish, &question_grammar(), &inventive(seed, 48))?;
            let other = text.trim().to_owned();
            if is_wording(&ask, &other) && !also.contains(&other) {
                also.push(other);
            }
            step();
        }
        let case = QuestionCase {
            ask,
            also,
            checks: Vec::new(),
            json_schema: None,
            grammar: None,
            max_tokens: None,
        };
        questions.push(PlannedQuestion { case, constraint: None });
    }
    Ok(questions)
}

/// Returns true if a text is another wording of a question, as far as can be told: a question about the same things, and not
/// about asking.
fn is_wording(question: &str, other: &str) -> bool {
    other.ends_with('?')
        && !other.ends_with(",?")
        && !other.eq_ignore_ascii_case(question)
        && !is_about_asking(other)
        && !is_statement(other)
        && shares_content(question, other)
}

/// Asks a question in all its wordings, and whether each answer is right.
fn contradict(asked: &mut Asked<'_, '_>, question: &PlannedQuestion, mut step: impl FnMut()) -> Result<()> {
    let coldest = Sampling::greedy(asked.suite.max_tokens);
    let wordings: Vec<String> =
        std::iter::once(&question.case.ask).chain(&question.case.also).cloned().collect();
    for wording in &wordings {
        asked.opened.matchers = None;
        let answer = asked.ask(Kind::Generated, question, wording, &coldest)?;
        step();
        if answer.trim().is_empty() {
            continue;
        }
        let ask = format!("\"{wording}\" - \"{}\" That is right, correct? Answer yes or no.", answer.trim());
        let check = Check { equals: Some("yes".into()), ignore_case: true, ..Check::default() };
        let case = QuestionCase { ask: ask.clone(), checks: vec![check], ..question.case.clone() };
        matcher(asked, YES_OR_NO)?;
        let implied = PlannedQuestion { case, constraint: None };
        asked.ask(Kind::Implication, &implied, &ask, &Sampling::greedy(4))?;
    }
    Ok(())
}

/// The text that the model gives for a wish, in a grammar; nothing if it finds none.
fn constrained(asked: &mut Asked<'_, '_>, wish: &str, grammar: &str, sampling: &Sampling) -> Result<String> {
    matcher(asked, grammar)?;
    let answered = asked.answer(wish, sampling)?;
    Ok(answered.map_or_else(|_| String::new(), |done| done.answer.text))
}

fn matcher(asked: &mut Asked<'_, '_>, grammar: &str) -> Result<()> {
    let model = asked.opened.session.model();
    asked.opened.matchers = Some(MatcherFactory::new(model, &Constraint::Grammar(grammar.to_owned()))?);
    Ok(())
}

fn inventive(seed: u32, max_tokens: usize) -> Sampling {
    Sampling::at(INVENTIVE, seed, max_tokens)
}

/// Returns true if a text speaks of the wish that the model was told, and not of the prompt.
fn is_about_asking(text: &str) -> bool {
    let text = text.to_lowercase();
    [
        "in other words",
        "same question",
        "rephrase",
        "one question",
        "short question",
        "questions",
        "text above",
    ]
    .iter()
    .any(|phrase| text.contains(phrase))
}

/// Returns true if a text that ends as a question does tells something, by its first word.
fn is_statement(text: &str) -> bool {
    let text = text.to_lowercase();
    let mut words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let tells = [
        "the", "a", "an", "it", "he", "she", "his", "her", "they", "this", "that", "there", "i", "we", "here",
    ];
    let asks = ["what", "which", "who", "whose", "when", "where", "how", "why"];
    words.clone().next().is_some_and(|first| tells.contains(&first))
        && !words.any(|word| asks.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_wordings_are_questions_about_the_same() {
        let question = "Which day is the museum closed?";
        assert!(is_wording(question, "On which day does the museum not open?"));
        assert!(!is_wording(question, "which day is the museum closed?"));
        assert!(!is_wording(question, "Can you ask the same question about the museum?"));
        assert!(!is_wording(question, "What is your name?"));
        assert!(!is_wording(question, "The museum."));
        assert!(!is_wording(question, "The museum is closed on some day, a?"));
        assert!(is_wording(question, "The museum is closed on which day?"));
        assert!(!is_wording(question, "The museum is closed on Monday. It opens on,?"));
    }
}
