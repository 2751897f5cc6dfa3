//! Parse, run, print the error chain, exit code.

use std::process::ExitCode;

use pcache::cli::{self, Cli};

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    cli::complete_for_a_shell();
    cli::try_for_another_process();
    let cli = Cli::of_process();
    begin_in_a_clean_environment(cli.command.evaluates());
    cli::run(cli, started)
}

/// Starts the program again where its environment is not as it should be; if that fails, it goes on as it is.
///
/// OpenMP's waiting threads should sleep soon: by default they spin for milliseconds, and two programs at once, as in
/// `pcache map … | pcache map …`, wait for each other's spinning: 45 s instead of 16 on two cores, and no slower alone
/// (`docs/performance.md`). The library reads that when it is loaded, and only who evaluates needs it. And variables that change the layout of states are
/// taken away: they would give one key two contents.
#[cfg(unix)]
fn begin_in_a_clean_environment(evaluates: bool) {
    use pcache_engine::sys::compute::LAYOUT_VARIABLES;
    use std::os::unix::process::CommandExt;

    const SPINS: &str = "GOMP_SPINCOUNT";
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let spins = evaluates && cfg!(target_os = "linux") && ![SPINS, "OMP_WAIT_POLICY"].into_iter().any(is_set);
    let cleared: Vec<&str> = LAYOUT_VARIABLES.into_iter().filter(|name| is_set(name)).collect();
    if !spins && cleared.is_empty() {
        return;
    }
    let Some(program) = own_file() else { return };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "pcache".into());
    let mut again = std::process::Command::new(program);
    again.arg0(name).args(arguments);
    if spins {
        again.env(SPINS, "1000");
    }
    for variable in cleared {
        use std::io::Write;
        let _ = writeln!(
            std::io::stderr(),
            "pcache: warning: {variable} is ignored: it changes the layout of states"
        );
        again.env_remove(variable);
    }
    let _ = again.exec();
}

/// The program's own file, under its own name: that is what `ps` and `pgrep` show. None where the name has gone to another
/// file, or where the system says that another program runs: a loader that was called with this one.
#[cfg(target_os = "linux")]
fn own_file() -> Option<std::path::PathBuf> {
    let (maps, here) = (std::fs::read_to_string("/proc/self/maps").ok()?, main as *const () as usize);
    let holds_this = |line: &&str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        range.and_then(|(first, end)| Some(number(first)? <= here && here < number(end)?)).unwrap_or(false)
    };
    let path = std::env::current_exe().ok()?;
    // Addresses, rights, offset, device, inode, and the path, which says so where the file is gone.
    let is_this = maps.lines().find(holds_this)?.ends_with(path.to_str()?);
    (is_this && path.is_file()).then_some(path)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn own_file() -> Option<std::path::PathBuf> {
    std::env::current_exe().ok()
}

#[cfg(not(unix))]
fn begin_in_a_clean_environment(_evaluates: bool) {}
