//! Running the real binary, each test in folders of its own.
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// The binary, with a working folder, a home and a store that nobody else has.
pub struct Program {
    dir: TempDir,
    model: PathBuf,
}

/// Result of a run.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A program that has said where it is.
pub struct Paused {
    child: Child,
    reader: std::thread::JoinHandle<String>,
}

impl Paused {
    /// Returns true if it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Run {
        let mut stdout = String::new();
        std::io::Read::read_to_string(&mut self.child.stdout.take().unwrap(), &mut stdout).unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Run { code, stdout, stderr: self.reader.join().unwrap() }
    }
}

/// Returns true if system calls can be traced here. Under CI a tracer that is missing or broken is a failure, and only one
/// that the machine forbids is none.
pub fn can_trace() -> bool {
    let probe = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    let why = match &probe {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let forbidden = why.contains("not permitted") || why.contains("Permission denied");
    assert!(forbidden || std::env::var_os("CI").is_none(), "strace does not work: {why}");
    eprintln!("strace cannot trace here, so this is not tested: {why}");
    false
}

/// Parses the output of a run as JSON.
pub fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {:?} {}", run.stdout, run.stderr))
}

impl Program {
    pub fn new(model: &Path) -> Self {
        Self { dir: TempDir::new().unwrap(), model: model.to_owned() }
    }

    /// With two states that share their first two segments: `long` (637 tokens) and `other` (about 680).
    pub fn with_two_states() -> Self {
        let program = Self::new(&super::common::tiny("llama"));
        let prose = super::common::prose(120, 1);
        program.write("long.txt", &prose);
        program.write("other.txt", &format!("{prose} and one more thing that is not in the first"));
        program.ok(&["build", "long.txt", "--name", "long"]);
        program.ok(&["build", "other.txt", "--name", "other"]);
        program
    }

    /// Everything that a command should not have changed: the files, and what `ls` says.
    pub fn contents(&self) -> (Vec<(PathBuf, u64)>, String) {
        (self.objects(), self.ok(&["ls", "--json"]).stdout)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub fn write(&self, name: &str, text: &str) {
        self.write_bytes(name, text.as_bytes());
    }

    pub fn write_bytes(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The program with no signal ignored, also where the tests themselves were started with some: in the background of a
    /// script, or by `nohup`.
    fn with_usual_signals() -> Command {
        let program = env!("CARGO_BIN_EXE_pcache");
        if !cfg!(target_os = "linux") {
            return Command::new(program);
        }
        let mut command = Command::new("env");
        command.args(["--default-signal", program]);
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Self::with_usual_signals();
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("HOME", self.path("home"))
            .env("PCACHE_DIR", self.store())
            .env("PCACHE_MODEL", &self.model)
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("PCACHE_CONFIG")
            .env_remove("PCACHE_MAX_SIZE")
            // Several programs share few cores here: waiting threads should sleep.
            .env("OMP_WAIT_POLICY", "passive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, "")
    }

    /// Runs with `input` on stdin.
    pub fn run_with(&self, args: &[&str], input: &str) -> Run {
        finish(self.command(args), input)
    }

    /// Runs without PCACHE_MODEL.
    pub fn run_without_model(&self, args: &[&str]) -> Run {
        let mut command = self.command(args);
        command.env_remove("PCACHE_MODEL");
        finish(command, "")
    }

    /// Runs with further environment variables.
    pub fn run_with_env(&self, args: &[&str], env: &[(&str, &str)]) -> Run {
        let mut command = self.command(args);
        command.envs(env.iter().copied());
        finish(command, "")
    }

    /// Runs another program in the working folder, which finds the binary in `$PCACHE`.
    pub fn script(&self, name: &str, args: &[&str]) -> Run {
        let as_usual = self.command(&[]);
        let mut command = Command::new(name);
        command.args(args).current_dir(self.dir.path()).env("PCACHE", env!("CARGO_BIN_EXE_pcache"));
        for (name, value) in as_usual.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command, "")
    }

    /// Runs with a stdout that nobody reads.
    pub fn run_with_closed_stdout(&self, args: &[&str]) -> Run {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = self.command(args);
        command.stdout(writer);
        finish(command, "")
    }

    /// Runs with a stderr that nobody reads.
    pub fn run_with_closed_stderr(&self, args: &[&str]) -> Run {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = self.command(args);
        command.stderr(writer);
        finish(command, "")
    }

    /// Changes the index behind pcache's back.
    pub fn sql(&self, statement: &str) {
        let db = rusqlite::Connection::open(self.store().join("index.sqlite")).unwrap();
        db.pragma_update(None, "foreign_keys", false).unwrap();
        assert!(db.execute(statement, []).unwrap() > 0, "{statement}");
    }

    /// Starts and does not wait.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::null()).spawn().unwrap()
    }

    /// Starts, with a stdout to read from.
    pub fn start_to_read(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Starts, with a stdin to write to and everything that it says to read.
    pub fn start_with_input(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    /// Starts as a user does, without what makes waiting threads sleep; `env` comes on top.
    pub fn start_as_users_do(&self, args: &[&str], env: &[(&str, &str)]) -> Child {
        let mut command = self.command(args);
        command.env_remove("OMP_WAIT_POLICY").env_remove("GOMP_SPINCOUNT").envs(env.iter().copied());
        command.spawn().unwrap()
    }

    /// Starts with hang-ups and Ctrl-C ignored, as `nohup` and a shell's `&` do.
    pub fn start_in_the_background(&self, args: &[&str]) -> Child {
        let plain = self.command(args);
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' HUP INT; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_pcache")]);
        command.args(args).current_dir(self.dir.path());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Starts, and comes back when it has said `text` on stderr: then it is where the test wants it.
    pub fn start_until(&self, args: &[&str], text: &str) -> Paused {
        let mut child = self.command(args).stdin(Stdio::null()).spawn().unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        let wanted = text.to_owned();
        let reader = std::thread::spawn(move || {
            let (mut said, mut told) = (String::new(), false);
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                said.push_str(&line);
                said.push('\n');
                if !told && line.contains(&wanted) {
                    told = send.send(()).is_ok();
                }
            }
            said
        });
        let waited = receive.recv_timeout(std::time::Duration::from_secs(60));
        assert!(waited.is_ok(), "{args:?} never said {text:?}");
        Paused { child, reader }
    }

    /// Runs to a success.
    pub fn ok(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
        run
    }

    /// The object files with their sizes.
    pub fn objects(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        files(&self.store().join("objects"), &mut found);
        found
    }

    /// The manifest files.
    pub fn manifests(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        files(&self.store().join("manifests"), &mut found);
        found.into_iter().map(|(path, _)| path).collect()
    }

    /// The label files.
    pub fn labels(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        files(&self.store().join("labels"), &mut found);
        found.into_iter().map(|(path, _)| path).collect()
    }

    /// The objects that hold segments; others are records of version 0.1.
    pub fn segments(&self) -> Vec<PathBuf> {
        let holds_segment = |path: &PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).contains("pcache object v1")
        };
        self.objects().into_iter().map(|(path, _)| path).filter(holds_segment).collect()
    }

    /// Bytes of what is stored for the states: objects, manifests and labels.
    pub fn stored_bytes(&self) -> u64 {
        let mut found = Vec::new();
        for folder in ["objects", "manifests", "labels"] {
            files(&self.store().join(folder), &mut found);
        }
        found.iter().map(|(_, n)| n).sum()
    }

    /// Bytes of all files in the store.
    pub fn total_bytes(&self) -> u64 {
        let mut found = Vec::new();
        files(&self.store(), &mut found);
        found.iter().map(|(_, n)| n).sum()
    }

    /// Keeps a copy of the store as it is.
    pub fn copy_store(&self, name: &str) {
        copy_folder(&self.store(), &self.path(name));
    }

    /// Takes a copy of a store from elsewhere as its own.
    pub fn adopt_store(&self, from: &Path) {
        copy_folder(from, &self.store());
    }

    /// Puts a copy in the place of the store.
    pub fn copy_store_back(&self, name: &str) {
        std::fs::remove_dir_all(self.store()).unwrap();
        copy_folder(&self.path(name), &self.store());
    }

    /// Makes a state look unused for so many days.
    pub fn set_last_used(&self, name: &str, days_ago: i64) {
        let db = rusqlite::Connection::open(self.store().join("index.sqlite")).unwrap();
        let changed = db
            .execute(
                "UPDATE states SET last_used = unixepoch() - 86400 * ?2 - 60
                     WHERE id = (SELECT state FROM names WHERE name = ?1)",
                rusqlite::params![name, days_ago],
            )
            .unwrap();
        assert_eq!(changed, 1);
    }
}

fn finish(mut command: Command, input: &str) -> Run {
    let mut child = command.spawn().unwrap();
    // A program that does not read its input closes it early.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let target = to.join(entry.file_name());
        match entry.metadata().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => assert!(std::fs::copy(entry.path(), target).is_ok()),
        }
    }
}

fn files(dir: &Path, found: &mut Vec<(PathBuf, u64)>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.map(|e| e.unwrap()).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            files(&entry.path(), found);
        } else {
            found.push((entry.path(), meta.len()));
        }
    }
}
