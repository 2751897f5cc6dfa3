//! Questions that the model makes up itself: asked in several wordings, and whether it stands by its answers.

use anyhow::Result;

use super::asking::Asked;
use super::plan::PlannedQuestion;
use crate::commands::sampling::plain;
use crate::engine::generate::Sampling;
use crate::engine::shape::{Guides, Shape};
use crate::eval::check::Check;
use crate::eval::outcome::Kind;
use crate::eval::suite::QuestionCase;
use crate::report::progress::Unit;

/// Other wordings of each question.
const WORDINGS: u32 = 2;
/// The temperature at which questions are made up: at 0 all wordings would be one.
const INVENTIVE: f32 = 0.8;

/// So many questions, one a line.
fn questions_grammar(count: usize) -> String {
    format!("root ::= line{{1,{count}}}\nline ::= [A-Z] [^?\\n]{{8,110}} \"?\\n\"\n")
}

const QUESTION_GRAMMAR: &str = "root ::= [A-Z] [^?\\n]{8,110} \"?\"\n";
const YES_OR_NO: &str = "root ::= \"Yes\" | \"No\"\n";

/// Lets the model make up `count` questions about its prompt and ask each in several wordings; then it is asked whether
/// what it answered is right.
pub fn run(asked: &mut Asked<'_, '_, '_>, count: usize) -> Result<()> {
    let progress = asked.opened.app.progress();
    progress.start(&format!("making up questions ({})", asked.prompt), 0, Unit::Answers);
    let made = questions(asked, count);
    progress.finish();
    let made = made?;
    progress.start(&format!("asking them ({})", asked.prompt), made.len() as u64, Unit::Answers);
    let done = made.iter().enumerate().try_for_each(|(n, question)| {
        progress.set(n as u64);
        contradict(asked, question)
    });
    progress.finish();
    asked.opened.guides = None;
    done
}

/// Questions with their wordings.
fn questions(asked: &mut Asked<'_, '_, '_>, count: usize) -> Result<Vec<PlannedQuestion>> {
    let wish = format!(
        "Write {count} different short questions that the text above answers. One question a line, nothing else."
    );
    // Several tries: small models repeat themselves.
    let mut found: Vec<String> = Vec::new();
    for seed in 0..4 {
        let text = shaped(asked, &wish, &questions_grammar(count), &inventive(seed, 48 * count))?;
        for line in text.lines().map(str::trim).filter(|l| l.ends_with('?')) {
            if found.len() < count && !found.iter().any(|q| q.eq_ignore_ascii_case(line)) {
                found.push(line.to_owned());
            }
        }
    }
    let mut questions = Vec::new();
    for ask in found {
        let mut also: Vec<String> = Vec::new();
        for seed in 0..WORDINGS {
            let wish = format!("Ask the same in other words, as one question: {ask}");
            let text = shaped(asked, &wish, QUESTION_GRAMMAR, &inventive(seed, 48))?;
            let other = text.trim().to_owned();
            if other.ends_with('?') && !other.eq_ignore_ascii_case(&ask) && !also.contains(&other) {
                also.push(other);
            }
        }
        let case = QuestionCase {
            ask,
            also,
            checks: Vec::new(),
            json_schema: None,
            grammar: None,
            max_tokens: None,
        };
        questions.push(PlannedQuestion { case, shape: None });
    }
    Ok(questions)
}

/// Asks a question in all its wordings, and whether each answer is right.
fn contradict(asked: &mut Asked<'_, '_, '_>, question: &PlannedQuestion) -> Result<()> {
    let coldest = plain(0.0, 0, asked.suite.max_tokens, &[]);
    let wordings: Vec<String> =
        std::iter::once(&question.case.ask).chain(&question.case.also).cloned().collect();
    for wording in &wordings {
        asked.opened.guides = None;
        let answer = asked.ask(Kind::Generated, question, wording, &coldest)?;
        if answer.trim().is_empty() {
            continue;
        }
        let ask = format!("\"{wording}\" - \"{}\" That is right, correct? Answer yes or no.", answer.trim());
        let check = Check { equals: Some("yes".into()), ignore_case: true, ..Check::default() };
        let case = QuestionCase { ask: ask.clone(), checks: vec![check], ..question.case.clone() };
        guide(asked, YES_OR_NO)?;
        let implied = PlannedQuestion { case, shape: None };
        asked.ask(Kind::Implication, &implied, &ask, &plain(0.0, 0, 4, &[]))?;
    }
    Ok(())
}

/// The text that the model gives for a wish, in a grammar; nothing if it finds none.
fn shaped(asked: &mut Asked<'_, '_, '_>, wish: &str, grammar: &str, sampling: &Sampling) -> Result<String> {
    guide(asked, grammar)?;
    let answered = asked.answer(wish, sampling)?;
    Ok(answered.map_or_else(|_| String::new(), |done| done.answer.text))
}

fn guide(asked: &mut Asked<'_, '_, '_>, grammar: &str) -> Result<()> {
    let model = asked.opened.session.model();
    asked.opened.guides = Some(Guides::new(model, &Shape::Grammar(grammar.to_owned()))?);
    Ok(())
}

fn inventive(seed: u32, max_tokens: usize) -> Sampling {
    plain(INVENTIVE, seed, max_tokens, &[])
}
