//! Results of a suite, for people and for continuous integration.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::eval::outcome::{Generated, Inconsistent, Kind, Outcome, Sum};
use crate::text::{human, table};

/// Letters of an answer in a list.
const SHOWN: usize = 300;
/// Maximum number of givers of an answer that are named.
const MAX_GIVERS: usize = 4;

/// A row for each prompt and model.
pub fn table(sums: &[Sum]) -> String {
    let row = |s: &Sum| {
        let percent = |share: f64| format!("{:.0}", share * 100.0);
        let (rate, interval) = match s.answers {
            0 => ("-".to_owned(), "-".to_owned()),
            n => (
                format!("{} %", percent(s.passed as f64 / n as f64)),
                format!("{}-{} %", percent(s.interval.0), percent(s.interval.1)),
            ),
        };
        let sampled = s.timings.rows().iter().find(|r| r.key == "main_sample").and_then(|r| r.tps);
        [
            human::sanitize(&s.prompt),
            human::sanitize(&s.model),
            s.questions.to_string(),
            format!("{}/{}", s.passed, s.answers),
            rate,
            interval,
            human::precise(s.time_to_first_token_s),
            sampled.map_or("-".into(), |tps| format!("{tps:.1}")),
        ]
    };
    let header = ["PROMPT", "MODEL", "QUESTIONS", "PASSED", "RATE", "95 %", "FIRST TOKEN", "TOKENS/S"];
    table::plain(&header, &[2, 3, 4, 5, 6, 7], sums.iter().map(row))
}

/// An answer with what is wrong with it, if anything is.
pub fn answer(o: &Outcome) -> String {
    let verdict = match (o.passed(), o.kind) {
        (true, _) if o.checks == 0 => "----",
        (true, _) => "pass",
        (false, Kind::Implication) => "CONTRADICTION",
        (false, _) => "FAIL",
    };
    let seed = if o.temperature > 0.0 { format!(", seed {}", o.seed) } else { String::new() };
    let sampled = format!(", temperature {}{seed}", o.temperature);
    let mut lines = vec![format!("{verdict} {}: {} ({}{sampled})", o.prompt, one_line(&o.wording), o.model)];
    lines.extend(o.error.iter().map(|e| format!("     {e}")));
    if o.error.is_none() {
        lines.push(format!("     {}", one_line(&o.answer)));
    }
    lines.extend(o.failures.iter().map(|f| format!("     not: {}", human::sanitize(condition(f)))));
    lines.join("\n")
}

/// A question on which answers disagree, with what was said.
pub fn inconsistent(found: &Inconsistent) -> String {
    let count = human::count(found.variants.len(), "variant");
    let model = only_model(found);
    let mut lines = vec![format!("INCONSISTENT {}: {} ({count})", found.prompt, one_line(&found.question))];
    for variant in &found.variants {
        let verdict = match variant.passed {
            Some(true) => " pass",
            Some(false) => " fail",
            None => "",
        };
        lines.push(format!("  {:>3}x{verdict} {}", variant.given_by.len(), one_line(&variant.answer)));
        let who = variant.given_by.iter().take(MAX_GIVERS);
        lines.extend(who.map(|w| format!("         {}", one_line(w.strip_prefix(&model).unwrap_or(w)))));
        if variant.given_by.len() > MAX_GIVERS {
            lines.push(format!("         and {} more", variant.given_by.len() - MAX_GIVERS));
        }
    }
    lines.join("\n")
}

/// The model that gave all answers, as what they were given by begins with it; nothing if there were several.
fn only_model(found: &Inconsistent) -> String {
    let model = |giver: &str| giver.split_once(", temperature").map(|(model, _)| format!("{model}, "));
    let mut models = found.variants.iter().flat_map(|v| &v.given_by).map(|giver| model(giver));
    let first = models.next().flatten();
    if models.all(|model| model == first) { first.unwrap_or_default() } else { String::new() }
}

/// A failure without what was found, where that is the answer, which is shown.
fn condition(failure: &str) -> &str {
    let end = failure.find(": found \"").filter(|_| !failure.starts_with("json "));
    &failure[..end.unwrap_or(failure.len())]
}

/// Describes the results of the questions that the model made up.
pub fn generated(g: &Generated) -> String {
    if g.questions.is_empty() {
        return "The model made up no questions that could be asked.".into();
    }
    let mut found = Vec::new();
    if g.inconsistent > 0 {
        found.push(format!("answers to {} disagree", human::count(g.inconsistent, "question")));
    }
    if g.contradicted > 0 {
        found.push(format!("the model takes back {}", human::count(g.contradicted, "answer")));
    }
    if g.contradicted == 0 && !found.is_empty() {
        found.push("the model stands by each of them when asked".into());
    }
    let found = if found.is_empty() { "no contradictions found".into() } else { found.join("; ") };
    let count = human::count(g.questions.len(), "question");
    let wordings = human::count(g.answers, "wording");
    let mut lines = vec![format!("Made up {count}, asked in {wordings}: {found}.")];
    lines.extend(
        g.questions
            .iter()
            .map(|m| format!("  {} ({})", one_line(&m.question), human::count(m.wordings, "wording"))),
    );
    lines.join("\n")
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut letters = line.chars();
    let head: String = letters.by_ref().take(SHOWN).collect();
    human::sanitize(&if letters.next().is_some() { head + "…" } else { head })
}

/// The report that continuous integration reads: a test suite for each prompt and model, a test case for each answer.
/// Questions on which answers disagree are failures only if `strict`.
pub fn junit(
    name: &str,
    outcomes: &[Outcome],
    sums: &[Sum],
    found: &[Inconsistent],
    strict: bool,
) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new(name);
    report.set_time(Duration::from_secs_f64(outcomes.iter().map(seconds).sum()));
    for sum in sums {
        let mut suite = TestSuite::new(format!("{} ({})", sum.prompt, sum.model));
        let mut took = 0.0;
        for o in outcomes.iter().filter(|o| o.prompt == sum.prompt && o.model == sum.model) {
            took += seconds(o);
            suite.add_test_case(case(o));
        }
        suite.set_time(Duration::from_secs_f64(took));
        report.add_test_suite(suite);
    }
    if !found.is_empty() {
        let mut suite = TestSuite::new("answers that disagree");
        for one in found {
            let mut status = TestCaseStatus::success();
            if strict {
                status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message("answers disagree");
            }
            let mut case = TestCase::new(one.question.as_str(), status);
            case.set_classname(format!("{} (answers that disagree)", one.prompt))
                .set_system_out(inconsistent(one));
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    // Characters that XML cannot hold even as references.
    report.to_string().map(|xml| xml.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}"))
}

/// Time that an answer took.
fn seconds(o: &Outcome) -> f64 {
    o.timings.rows().iter().map(|r| r.time_s).sum::<f64>().max(0.0)
}

fn case(o: &Outcome) -> TestCase {
    let status = match (&o.error, o.failures.first()) {
        (Some(error), _) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message(error.as_str());
            status
        }
        (None, Some(first)) if o.kind == Kind::Suite => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(first.as_str()).set_description(o.failures.join("\n"));
            status
        }
        _ => TestCaseStatus::success(),
    };
    let kind = match o.kind {
        Kind::Suite => "",
        Kind::Generated => ", made up",
        Kind::Implication => ", implied",
    };
    let name = format!("{} [temperature {}, seed {}{kind}]", o.wording, o.temperature, o.seed);
    let mut case = TestCase::new(name, status);
    // Some readers know a test case by class and name alone: what an answer differs in is in the two.
    case.set_classname(format!("{} ({})", o.prompt, o.model)).set_time(Duration::from_secs_f64(seconds(o)));
    case.set_system_out(o.answer.as_str());
    case
}
