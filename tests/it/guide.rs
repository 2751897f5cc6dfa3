//! The documents: what they show of a terminal is what the program prints, every option in them exists, and every link leads
//! somewhere. `PCACHE_UPDATE_GUIDE=1 cargo test --test it guide` writes the output of all commands anew.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use regex::Regex;
use tempfile::TempDir;

use super::common::smollm2;

/// Line that opens a block of commands with their output.
const CONSOLE: &str = "```console";
/// Line that closes it.
const FENCE: &str = "```";

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// README and the pages of the guide, by their paths.
fn pages() -> Vec<PathBuf> {
    let guide = std::fs::read_dir(repository().join("docs/guide")).unwrap();
    let mut pages: Vec<PathBuf> = guide.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    pages.insert(0, repository().join("README.md"));
    pages
}

/// A command of a page, and the lines that follow it.
struct Step {
    /// Number of the line that it begins in.
    line: usize,
    command: String,
    /// Lines that are typed into it: they begin with `> `.
    input: String,
    output: Vec<String>,
}

/// Splits a page into the text between commands, each with the step behind it.
fn steps(text: &str) -> (Vec<String>, Vec<Step>) {
    let (mut between, mut steps): (Vec<String>, Vec<Step>) = (vec![String::new()], Vec::new());
    let mut inside = false;
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        match (inside, line, line.strip_prefix("$ ")) {
            (true, _, Some(command)) => {
                let mut command = command.to_owned();
                while command.ends_with('\\') || command.ends_with('|') {
                    command.push('\n');
                    command.push_str(lines.next().expect("a command goes on").1);
                }
                steps.push(Step { line: number + 1, command, input: String::new(), output: Vec::new() });
                between.push(String::new());
            }
            (true, FENCE, _) | (false, CONSOLE, _) => {
                inside = !inside;
                *between.last_mut().unwrap() += &format!("{line}\n");
            }
            (true, _, _) => {
                let step = steps.last_mut().expect("a block begins with a command");
                match line.strip_prefix("> ") {
                    Some(typed) => step.input += &format!("{typed}\n"),
                    None => step.output.push(line.to_owned()),
                }
            }
            (false, _, _) => *between.last_mut().unwrap() += &format!("{line}\n"),
        }
    }
    (between, steps)
}

/// A line without what differs from run to run: durations, rates, ages, and the widths of columns.
fn normalised(line: &str) -> String {
    static VARYING: OnceLock<Vec<(Regex, &str)>> = OnceLock::new();
    let varying = VARYING.get_or_init(|| {
        [
            (r"^(\w+ +)[\d.]+( +(?:n/a|\d+) +)(n/a|[\d.]+)$", "${1}TIME${2}RATE"),
            (r"\((just now|\d+ \w+ ago)\)", "(TIME)"),
            (r"\b\d[\d,.]*( ?)(ms|s|min|m|h|d)\b", "TIME"),
            (r"\b\d{4}-\d\d-\d\d \d\d:\d\d", "DATE"),
            (r"\bindex \d+ KiB|, [\d.]+ [KM]iB stay", "SIZE"),
            (r"\bnow\b", "TIME"),
            (r"\b\d[\d,.]*(x| %| tokens/s| records/s|/s)", "RATE"),
            (r"[ │─]+", " "),
        ]
        .map(|(pattern, text)| (Regex::new(pattern).unwrap(), text))
        .into()
    });
    varying
        .iter()
        .fold(line.trim().to_owned(), |line, (pattern, text)| pattern.replace_all(&line, *text).into())
}

/// A folder in which a page's commands run: with the examples, a store, and the models of this machine.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at(".cache/pcache/models")).unwrap();
        std::os::unix::fs::symlink(smollm2(), at(".cache/pcache/models/smollm2-135m.gguf")).unwrap();
        let copied = Command::new("cp").arg("-r").arg(repository().join("data")).arg(at("data")).status();
        assert!(copied.unwrap().success());
        Self { dir }
    }

    /// A desk whose store has the states that pages begin with.
    fn with_states() -> Self {
        static STATES: OnceLock<Desk> = OnceLock::new();
        let states = STATES.get_or_init(|| {
            let desk = Self::new();
            for (file, name) in [("restaurant-a", "lucia"), ("mouse", "mouse")] {
                desk.run(&format!("pcache build data/{file}.txt --name {name}"), "");
            }
            desk
        });
        let desk = Self::new();
        let store = states.dir.path().join(".cache/pcache/states");
        let target = desk.dir.path().join(".cache/pcache/states");
        assert!(Command::new("cp").arg("-r").args([store, target]).status().unwrap().success());
        desk
    }

    /// Runs a command line, and returns all that it prints.
    fn run(&self, command: &str, input: &str) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_pcache")).parent().unwrap();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let mut child = Command::new("bash")
            .args(["-c", &format!("exec 2>&1\n{command}")])
            .current_dir(self.dir.path())
            .env_clear()
            .envs([
                ("PATH", path.as_str()),
                ("HOME", self.dir.path().to_str().unwrap()),
                ("LC_ALL", "C.UTF-8"),
            ])
            .env("OMP_WAIT_POLICY", "passive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        // Where the model lies on this machine is nobody's business.
        let models = smollm2().canonicalize().unwrap().parent().unwrap().to_str().unwrap().to_owned();
        let text = String::from_utf8_lossy(&output.stdout).replace(self.dir.path().to_str().unwrap(), "~");
        text.replace(&models, "~/.cache/pcache/models")
    }
}

/// Every command of every page prints what the page says.
#[test]
fn what_the_guide_shows_is_what_the_program_prints() {
    let update = std::env::var_os("PCACHE_UPDATE_GUIDE").is_some();
    let mut wrong = String::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let (between, steps) = steps(&text);
        if steps.is_empty() {
            continue;
        }
        let desk = if text.contains("<!-- from nothing -->") { Desk::new() } else { Desk::with_states() };
        let mut renewed = between[0].clone();
        for (step, after) in steps.iter().zip(&between[1..]) {
            let printed = desk.run(&step.command, &step.input);
            let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
            let same = matches(&without_estimates(&step.output), &without_estimates(&printed));
            if !same {
                let at = format!("{}:{}", page.display(), step.line);
                wrong += &format!("{at}: $ {}\n{}\n", step.command, printed.join("\n"));
            }
            renewed += &format!("$ {}\n", step.command);
            renewed.extend(step.input.lines().map(|line| format!("> {line}\n")));
            let kept: Vec<&str> = step.output.iter().map(String::as_str).collect();
            renewed.extend((if same { kept } else { printed }).iter().map(|line| format!("{line}\n")));
            renewed += after;
        }
        if update && renewed != text {
            std::fs::write(&page, renewed).unwrap();
        }
    }
    if update {
        check_pictures(true);
    }
    assert!(
        update || wrong.is_empty(),
        "pages differ from what is printed; see the head of this file\n{wrong}"
    );
}

/// Leaves out the lines that only a slow machine prints.
fn without_estimates(lines: &[impl AsRef<str>]) -> Vec<&str> {
    let lines = lines.iter().map(AsRef::as_ref);
    lines.filter(|line| !(line.starts_with("about ") && line.contains(" to cache "))).collect()
}

/// Compares lines; one that is `…` stands for any number of them.
fn matches(shown: &[&str], printed: &[&str]) -> bool {
    match (shown.first().copied(), printed.first()) {
        (None, None) => true,
        (Some("…"), None) => matches(&shown[1..], printed),
        (Some("…"), Some(_)) => matches(&shown[1..], printed) || matches(shown, &printed[1..]),
        (Some(one), Some(other)) => {
            normalised(one) == normalised(other) && matches(&shown[1..], &printed[1..])
        }
        _ => false,
    }
}

/// Every option that a page or a document gives to a command is one that the command has.
#[test]
fn every_option_in_the_documents_exists() {
    let desk = Desk::new();
    let mut known = std::collections::HashMap::<String, String>::new();
    let used = Regex::new(r"(?m)^(?:\$ |    )pcache (?:-q |-m \S+ )*([a-z]+)\b([^\n#]*)").unwrap();
    let option = Regex::new(r"(?:^| )(--[a-z][a-z-]*)").unwrap();
    for page in pages() {
        for line in used.captures_iter(&std::fs::read_to_string(&page).unwrap()) {
            let command = &line[1];
            let help = known
                .entry(command.to_owned())
                .or_insert_with(|| desk.run(&format!("pcache {command} --help"), ""));
            assert!(help.contains("Usage: pcache"), "{}: pcache {command}: {help}", page.display());
            // What follows a pipe is another program's.
            let own = line[2].split('|').next().unwrap_or_default();
            for option in option.captures_iter(own) {
                let found =
                    help.contains(&format!("{} ", &option[1])) || help.contains(&format!("{}\n", &option[1]));
                assert!(found, "{}: pcache {command} has no {}", page.display(), &option[1]);
            }
        }
    }
}

/// Links within the project lead to files, and to headings that are there.
#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)#\s]*)(#[^)\s]*)?\)").unwrap();
    let mut documents = pages();
    for folder in [repository(), repository().join("docs")] {
        let more = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        documents.extend(more.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    }
    for page in documents {
        for found in link.captures_iter(&std::fs::read_to_string(&page).unwrap()) {
            let to = &found[1];
            if to.contains("://") || to.starts_with("mailto:") {
                continue;
            }
            let target = if to.is_empty() { page.clone() } else { page.parent().unwrap().join(to) };
            assert!(target.exists(), "{}: {to} is not there", page.display());
            if let Some(heading) = found.get(2) {
                let text = std::fs::read_to_string(&target).unwrap();
                let headings: Vec<String> =
                    text.lines().filter_map(|l| l.strip_prefix('#')).map(anchor).collect();
                assert!(
                    headings.contains(&heading.as_str()[1..].to_owned()),
                    "{}: {to}{} is not there",
                    page.display(),
                    heading.as_str()
                );
            }
        }
    }
}

/// Name of a heading in links.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Pictures of a terminal are drawn from what pages show.
#[test]
fn pictures_are_those_of_the_pages() {
    // Else they are drawn when the pages are written.
    if std::env::var_os("PCACHE_UPDATE_GUIDE").is_none() {
        check_pictures(false);
    }
}

fn check_pictures(update: bool) {
    let picture = Regex::new(r"<!-- picture: (\S+) -->\n```console\n((?s).*?)```").unwrap();
    let mut drawn = 0;
    for page in pages() {
        for found in picture.captures_iter(&std::fs::read_to_string(&page).unwrap()) {
            let (file, svg) = (page.parent().unwrap().join(&found[1]), terminal(&found[2]));
            if update {
                std::fs::write(&file, &svg).unwrap();
            }
            assert!(std::fs::read_to_string(&file).unwrap() == svg, "{} is of another text", file.display());
            drawn += 1;
        }
    }
    assert_eq!(drawn, 1);
}

/// Draws lines of a terminal; commands are bold.
fn terminal(text: &str) -> String {
    const LINE: usize = 20;
    let columns = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let (width, height) = (columns * 8 + 40, text.lines().count() * LINE + 36);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#1d2027\"/>\n\
         <g font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"13\" fill=\"#c9d1d9\" \
         xml:space=\"preserve\">\n"
    );
    for (number, line) in text.lines().enumerate() {
        let y = number * LINE + 30;
        let style = if line.starts_with("$ ") { " font-weight=\"bold\" fill=\"#ffffff\"" } else { "" };
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        svg += &format!("<text x=\"20\" y=\"{y}\"{style}>{line}</text>\n");
    }
    svg + "</g>\n</svg>\n"
}

/// The front page is to be read in a few minutes.
#[test]
fn the_front_page_is_short() {
    let words = std::fs::read_to_string(repository().join("README.md")).unwrap().split_whitespace().count();
    assert!(words < 1000, "README.md has {words} words");
}
