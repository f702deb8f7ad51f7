//! Commands and their supervision, with real processes.
//!
//! This program is also the other processes of its tests: the shim, a backend, and agents that can be killed or that have an
//! environment of their own.

#[expect(dead_code, reason = "the other tests of recipes use the rest")]
mod backend;
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod control;
#[path = "control/owned.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod owned;

use backend::{Backend, eventually, outcome, runner, wake};
use libtest_mimic::{Arguments, Trial};
use owned::Owned;
use reveille_agent::{
    child::{Child, Exit, SHIM, Shims, Start, shim_main},
    config::{CommandAction, Secret},
    output::{MAX_FILE_BYTES, OutputFile, Reader},
    provider::Input,
    recipe::{Outcome, Progress},
    state_dir::StateDir,
};
use reveille_domain::{
    AgentName, MODELS_STAGE, ProviderId, ProviderName, SleepReason, WakeFailureKind,
    provider::StatusName::{Active, Hibernating},
};
use reveille_tests::{descendants, write_script};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};

/// Between TERM and KILL.
const GRACE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let role = args
        .next()
        .and_then(|role| role.into_string().ok())
        .unwrap_or_default();
    match role.as_str() {
        SHIM => return shim_main(),
        "serve-backend" => {
            return block_on(serve_backend(
                args.next().expect("an address").to_string_lossy().as_ref(),
            ));
        }
        "run-a-recipe" => return block_on(run_a_recipe(Path::new(&args.next().expect("a file")))),
        "keep-a-shim-ready" => return block_on(keep_a_shim_ready()),
        "be-an-agent" => return block_on(be_an_agent(Path::new(&args.next().expect("a directory")))),
        _ => {}
    }
    let (filters, options): (Vec<_>, Vec<_>) = std::env::args().partition(|arg| !arg.starts_with('-'));
    let filters = &filters[1..];
    let trials = trials().into_iter();
    // This harness takes one filter; the usual one takes several.
    let named =
        trials.filter(|trial| filters.is_empty() || filters.iter().any(|part| trial.name().contains(part)));
    let options = Arguments::from_iter(std::iter::once(String::new()).chain(options));
    libtest_mimic::run(&options, named.collect()).exit_code()
}

/// Names each test after its function.
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(Trial::test(stringify!($name), || { block_on($name()); Ok(()) })),*]
    };
}

fn trials() -> Vec<Trial> {
    trials![
        everything_below_an_agent_that_is_killed_dies_too,
        a_step_that_ignores_term_is_killed_after_its_time_out,
        a_flood_of_output_does_not_hold_up_a_command,
        a_command_has_no_input_no_shell_and_its_own_variables,
        what_an_agent_knows_reaches_a_command_only_by_name,
        an_http_step_asks_no_proxy,
        a_program_that_cannot_be_started_has_a_reason,
        a_command_that_fails_says_how_and_nothing_that_it_printed,
        a_command_that_leaves_something_running_fails_names_it_and_ends_it,
        what_ends_a_moment_after_its_command_is_not_left_running,
        what_a_detached_command_leaves_running_outlives_the_agent,
        what_a_detached_command_leaves_running_may_go_on_to_print,
        a_detached_command_that_has_just_succeeded_is_not_waited_for_by_whoever_cancels_it,
        what_commands_print_is_kept_on_the_machine_with_what_printed_it,
        what_is_printed_after_the_agent_has_ended_is_kept_too,
        a_flood_of_output_costs_neither_memory_nor_disk,
        a_command_whose_output_cannot_be_kept_runs_all_the_same,
        a_hint_names_what_to_change_and_is_told_without_names_to_others,
        a_command_runs_in_its_own_folder_or_in_one_that_it_can_write_to,
        a_served_command_that_goes_into_the_background_has_a_reason,
        a_container_that_outlives_its_client_is_ended_by_its_name,
        a_served_backend_is_kept_watched_and_stopped,
        a_served_command_that_ends_while_booting_fails_the_wake_at_once,
        a_server_that_has_the_port_of_a_served_command_is_never_taken_for_it,
        advice_about_other_models_ends_no_server_that_the_agent_has_started,
        a_served_command_that_ends_because_its_port_is_taken_says_by_whom,
        a_served_command_may_end_the_server_that_it_replaces,
        a_served_command_that_never_answers_is_reported_first_and_then_ended,
        a_cancelled_or_dropped_run_leaves_nothing_behind,
        a_child_whose_shim_is_killed_is_ended,
        the_next_command_gets_the_shim_that_waits_or_another_if_it_was_killed,
        a_served_backend_that_dies_is_reported_and_started_again_by_the_next_wake,
        a_new_wake_starts_nothing_before_the_last_one_is_gone,
        a_served_backend_sleeps_by_ending_and_ends_with_its_agent,
        a_sleep_step_may_end_the_served_backend,
        ctrl_c_in_the_terminal_goes_past_the_child,
    ]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(future)
}

async fn serve_backend(address: &str) -> ExitCode {
    let listener = tokio::net::TcpListener::bind(address).await.expect("the address");
    axum::serve(listener, backend::routes(Default::default()))
        .await
        .expect("served");
    ExitCode::SUCCESS
}

/// Runs the wake of the provider that a file describes, as an agent would, and says how it went.
async fn run_a_recipe(file: &Path) -> ExitCode {
    let config = fs::read_to_string(file).expect("a provider");
    let runner = match std::env::var_os("KEEP_IN") {
        Some(directory) => Arc::new(runner().keeping(output_in(Path::new(&directory)))),
        None => runner(),
    };
    let mut run = wake(&config, runner);
    println!("{:?}", outcome(&mut run).await.failure);
    if std::env::var_os("SHOW_HINT").is_some()
        && let Progress::Ended(ended) = run.next().await
    {
        let hint = ended.hint.map(|hint| hint.to_string());
        println!("{}", hint.as_deref().unwrap_or("None"));
        return ExitCode::SUCCESS;
    }
    run.stop().await;
    ExitCode::SUCCESS
}

/// Starts the family of `script` as an agent would, and waits to be killed.
async fn be_an_agent(directory: &Path) -> ExitCode {
    let shims = Shims::of_this_program().expect("a program");
    let action = CommandAction {
        program: family(directory),
        args: Vec::new(),
        env: Vec::new(),
        env_pass: Vec::new(),
        cwd: None,
    };
    let child = Child::start(&shims, Start::new(&action, GRACE))
        .await
        .expect("started");
    std::future::pending::<()>().await;
    drop(child);
    ExitCode::SUCCESS
}

/// For each line that it reads, starts a command with a shim that waited, and says what the command's parent was.
async fn keep_a_shim_ready() -> ExitCode {
    let shims = Shims::of_this_program().expect("a program").with_one_ready();
    let (directory, mut lines) = (directory(), BufReader::new(tokio::io::stdin()).lines());
    let parent = directory.path().join("parent");
    let write = format!("echo $PPID > {}", parent.display());
    while let Ok(Some(_)) = lines.next_line().await {
        let action = action("sh", &["-c", &write]);
        let mut child = Child::start(&shims, Start::new(&action, GRACE))
            .await
            .expect("started");
        assert_eq!(child.ended().await, Exit::Code(0));
        print!("{}", fs::read_to_string(&parent).expect("written"));
    }
    ExitCode::SUCCESS
}

/// A program whose child, background child and twice-forked grandchild in a session of its own all ignore TERM and
/// write their process ids to `child`, `background` and `detached`.
fn family(directory: &Path) -> String {
    let own = |name: &str| {
        format!(
            "trap '' TERM; echo $$ > {0}/{name}.new; mv {0}/{name}.new {0}/{name}",
            directory.display()
        )
    };
    let member = |name: &str, rest: &str| script(directory, name, &format!("{}\n{rest}", own(name)));
    let sleeping = "while :; do sleep 1000; done";
    let background = member("background", sleeping);
    let detached = member("detached", sleeping);
    let between = script(directory, "between", &format!("{detached} &"));
    member(
        "child",
        &format!("{background} &\nsetsid {between} &\n{sleeping}"),
    )
}

const FAMILY: [&str; 3] = ["child", "background", "detached"];

fn script(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(format!("{name}.sh"));
    write_script(&path, &format!("#!/bin/sh\n{text}\n"));
    path.display().to_string()
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

/// The process ids that the named scripts have written.
async fn pids(directory: &Path, names: &[&str]) -> Vec<i32> {
    let mut pids = Vec::new();
    for name in names {
        let file = directory.join(name);
        eventually(name, || file.exists()).await;
        pids.push(
            fs::read_to_string(&file)
                .expect("a pid")
                .trim()
                .parse()
                .expect("a number"),
        );
    }
    pids
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("a process");
}

/// Ends a script together with the commands that it runs.
fn kill_group(leader: i32, signal: Signal) {
    kill_process_group(Pid::from_raw(leader).expect("a pid"), signal).expect("a group");
}

fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields = stat.rsplit(')').next().expect("fields");
    let parent = fields.split_ascii_whitespace().nth(1).expect("a parent");
    parent.parse().expect("a number")
}

fn action(program: &str, args: &[&str]) -> CommandAction {
    let args = args.iter().map(|arg| Secret::new((*arg).to_owned())).collect();
    CommandAction {
        program: program.to_owned(),
        args,
        env: Vec::new(),
        env_pass: Vec::new(),
        cwd: None,
    }
}

async fn start(program: &str, args: &[&str]) -> Child {
    let shims = Shims::of_this_program().expect("a program");
    Child::start(&shims, Start::new(&action(program, args), GRACE))
        .await
        .expect("started")
}

/// Runs the recipe that `steps` (of a provider whose backend answers) describes.
async fn run(steps: &str) -> Outcome {
    let backend = Backend::start().await;
    let mut run = wake(&format!("base_url = \"{}\"\n{steps}", backend.url), runner());
    let outcome = outcome(&mut run).await;
    assert!(run.ended().await.is_none());
    outcome
}

async fn everything_below_an_agent_that_is_killed_dies_too() {
    let directory = directory();
    let mut agent = tokio::process::Command::new(std::env::current_exe().expect("a program"));
    let agent = agent
        .arg("be-an-agent")
        .arg(directory.path())
        .stdin(Stdio::null());
    let mut agent = agent.kill_on_drop(true).spawn().expect("an agent");
    let family = pids(directory.path(), &FAMILY).await;
    assert!(family.iter().all(|pid| alive(*pid)));
    agent.kill().await.expect("killed");
    eventually("the end of the family", || !family.iter().any(|pid| alive(*pid))).await;
}

async fn a_step_that_ignores_term_is_killed_after_its_time_out() {
    let directory = directory();
    let program = family(directory.path());
    let backend = Backend::start().await;
    let recipe =
        format!("[provider.wake]\ntype = \"command\"\ncommand = \"{program}\"\ntimeout = \"1500ms\"");
    let mut run = wake(&format!("base_url = \"{}\"\n{recipe}", backend.url), runner());
    let family = pids(directory.path(), &FAMILY).await;
    let failure = outcome(&mut run).await.failure.expect("a failure");
    assert_eq!(
        (failure.stage.as_str(), failure.reason.as_str()),
        ("step 1 command", "not done within 1.5s (`timeout`)")
    );
    assert!(run.ended().await.is_none());
    assert!(!family.iter().any(|pid| alive(*pid)), "left over");
}

async fn a_flood_of_output_does_not_hold_up_a_command() {
    let flood = "yes | head -c 50000000; yes | head -c 1000000 >&2";
    let mut child = start("sh", &["-c", flood]).await;
    assert_eq!(child.ended().await, Exit::Code(0));
}

async fn a_command_has_no_input_no_shell_and_its_own_variables() {
    let mut child = start("cat", &[]).await;
    assert_eq!(child.ended().await, Exit::Code(0), "its input is empty");

    let directory = directory();
    let out = directory.path().join("out").display().to_string();
    let program = script(
        directory.path(),
        "say",
        &format!("printf '%s|' \"$@\" \"$WHO\" > {out}"),
    );
    let outcome = run(&format!(
        r#"
        [provider.wake]
        type = "command"
        command = "{program}"
        args = ["a b", "$HOME; `id` *", ""]
        env = {{ WHO = "me" }}
        "#
    ))
    .await;
    assert_eq!(outcome.failure, None);
    assert_eq!(
        fs::read_to_string(out).expect("written"),
        "a b|$HOME; `id` *||me|"
    );
}

/// What `run-a-recipe` says, with these variables in its environment.
async fn run_in(directory: &Path, config: &str, variables: &[(&str, &str)]) -> String {
    let file = directory.join("provider.toml");
    fs::write(&file, config).expect("written");
    let mut agent = tokio::process::Command::new(std::env::current_exe().expect("a program"));
    agent
        .arg("run-a-recipe")
        .arg(&file)
        .envs(variables.iter().copied());
    let agent = agent.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = agent.await.expect("an agent");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn what_an_agent_knows_reaches_a_command_only_by_name() {
    const SECRET: &str = "canary-5ecr3t";
    let hidden = [
        "REVEILLE_NATS_URL",
        "REVEILLE_DATABASE_URL",
        "REVEILLE_CONFIG",
        "VLLM_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "https_proxy",
        "NOTIFY_SOCKET",
        "CREDENTIALS_DIRECTORY",
    ];
    let mut variables: Vec<_> = hidden.map(|name| (name, SECRET)).to_vec();
    let passed = [
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("LC_ALL", "C.UTF-8"),
        ("XDG_RUNTIME_DIR", "/run/user/0"),
        ("NAMED", "by env_pass"),
        ("REPLACED", "not this"),
    ];
    variables.extend(passed);
    let directory = directory();
    let (child, shim) = (directory.path().join("child"), directory.path().join("shim"));
    // A command sees its own environment, and that of the process that supervises it.
    let look = format!(
        "env > {}; tr '\\0' '\\n' < /proc/$PPID/environ > {}",
        child.display(),
        shim.display()
    );
    let program = script(directory.path(), "look", &look);
    let url = Backend::free_url().await;
    let serves = script(
        directory.path(),
        "serve",
        &format!(
            "env >> {}; exec {} serve-backend {}",
            child.display(),
            std::env::current_exe().expect("a program").display(),
            url.trim_start_matches("http://")
        ),
    );
    let config = format!(
        r#"
        base_url = "{url}"
        [[provider.wake.step]]
        type = "command"
        command = "{program}"
        env = {{ OWN = "given", REPLACED = "this" }}
        env_pass = ["NAMED", "REPLACED", "NOT_SET"]
        [[provider.wake.step]]
        type = "command"
        command = "{serves}"
        run = "serve"
        "#
    );
    assert_eq!(run_in(directory.path(), &config, &variables).await, "None\n");
    let [child, shim] = [child, shim].map(|file| fs::read_to_string(file).expect("it looked"));
    assert!(
        !child.contains(SECRET) && !child.contains("REVEILLE_") && !child.contains("NOT_SET"),
        "{child}"
    );
    for variable in [
        "OWN=given",
        "REPLACED=this",
        "NAMED=by env_pass",
        "CUDA_VISIBLE_DEVICES=1",
        "LC_ALL=C.UTF-8",
    ] {
        assert!(child.lines().any(|line| line == variable), "{variable}: {child}");
    }
    assert!(child.lines().any(|line| line.starts_with("PATH=/")), "{child}");
    assert_eq!(shim.trim(), "", "the supervisor needs none");
}

async fn an_http_step_asks_no_proxy() {
    let (directory, backend, closed) = (directory(), Backend::start().await, backend::Closed::claim());
    let proxies =
        ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(|name| (name, closed.url.as_str()));
    let config = format!(
        "base_url = \"{0}\"\n[provider.wake]\ntype = \"http\"\nurl = \"{0}/wake\"\n",
        backend.url
    );
    assert_eq!(run_in(directory.path(), &config, &proxies).await, "None\n");
    assert_eq!(backend.wakes().len(), 1);
}

async fn a_program_that_cannot_be_started_has_a_reason() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("plain"), "no program").expect("written");
    let no_interpreter = script(directory.path(), "odd", "").replace("odd.sh", "odder");
    fs::write(&no_interpreter, "#!/no/such/interpreter\n").expect("written");
    fs::set_permissions(&no_interpreter, fs::Permissions::from_mode(0o755)).expect("made executable");
    for (program, reason) in [
        (at("none"), "the program does not exist"),
        (at("plain"), "the program is not executable"),
        (at(""), "the program is not a file"),
        (
            "no-such-program-anywhere".to_owned(),
            "the program was not found in PATH",
        ),
        (
            no_interpreter,
            "the program could not be started: it or its interpreter was not found",
        ),
    ] {
        for mode in ["once", "serve"] {
            let recipe =
                format!("[provider.wake]\ntype = \"command\"\ncommand = \"{program}\"\nrun = \"{mode}\"");
            let failure = run(&recipe).await.failure.expect("a failure");
            assert_eq!(failure.reason, reason, "{program}");
            assert_eq!(failure.kind, WakeFailureKind::Recipe);
        }
    }
}

async fn a_command_that_fails_says_how_and_nothing_that_it_printed() {
    for (text, reason) in [
        ("echo canary; exit 3", "the command exited with code 3"),
        ("echo canary; kill -9 $$", "the command was ended by signal 9"),
    ] {
        let recipe =
            format!("[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\nargs = [\"-c\", \"{text}\"]");
        assert_eq!(run(&recipe).await.failure.expect("a failure").reason, reason);
    }
}

/// A program that leaves one running, which ignores TERM, stays in no group of its parent's, and writes its process id to
/// `left`.
fn leaver(directory: &Path) -> String {
    let path = directory.display();
    let left = script(
        directory,
        "left",
        &format!("trap '' TERM\necho $$ > {path}/left\nwhile :; do sleep 1000; done"),
    );
    let leave = format!("setsid {left} &\nwhile ! [ -s {path}/left ]; do sleep 0.01; done\nexit ${{1:-0}}");
    script(directory, "leaver", &leave)
}

async fn a_command_that_leaves_something_running_fails_names_it_and_ends_it() {
    let directory = directory();
    let step = format!(
        "[provider.wake]\ntype = \"command\"\ncommand = \"{}\"\n",
        leaver(directory.path())
    );
    let failure = run(&step).await.failure.expect("a failure");
    let [left] = pids(directory.path(), &["left"]).await[..] else {
        panic!("one")
    };
    assert_eq!(failure.stage, "step 1 command");
    for part in [
        &format!("`left.sh` (process {left})"),
        "run = \"detach\"",
        "what it left running was ended too",
    ] {
        assert!(failure.reason.contains(part), "{part}: {}", failure.reason);
    }
    assert!(!alive(left));
}

async fn what_ends_a_moment_after_its_command_is_not_left_running() {
    let step =
        "[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\nargs = [\"-c\", \"sleep 0.05 & exit 0\"]";
    assert_eq!(run(step).await.failure, None);
}

async fn what_a_detached_command_leaves_running_outlives_the_agent() {
    let directory = directory();
    let config = |code: &str| {
        let step = format!(
            "[provider.wake]\ntype = \"command\"\ncommand = \"{}\"\nargs = [\"{code}\"]\nrun = \"detach\"\n",
            leaver(directory.path())
        );
        step
    };
    let backend = Backend::start().await;
    let whole = format!("base_url = \"{}\"\n{}", backend.url, config("0"));
    // The agent is a process of its own here, and has ended when this returns.
    assert_eq!(run_in(directory.path(), &whole, &[]).await, "None\n");
    let [left] = pids(directory.path(), &["left"]).await[..] else {
        panic!("one")
    };
    assert!(alive(left));
    let shim = parent(left);
    assert!(alive(shim), "it reads what is printed");
    // It leads a session, and so a group.
    kill_group(left, Signal::KILL);
    eventually("the end of the shim", || !alive(shim)).await;

    // Only success lets anything live on.
    fs::remove_file(directory.path().join("left")).expect("removed");
    let failure = run(&config("3")).await.failure.expect("a failure");
    assert_eq!(failure.reason, "the command exited with code 3");
    let [left] = pids(directory.path(), &["left"]).await[..] else {
        panic!("one")
    };
    assert!(!alive(left));
}

async fn what_a_detached_command_leaves_running_may_go_on_to_print() {
    let directory = directory();
    let path = directory.path().display();
    let prints = script(
        directory.path(),
        "prints",
        &format!("echo $$ > {path}/prints\nwhile echo tick; do echo >> {path}/ticks; sleep 0.01; done"),
    );
    let leave = script(directory.path(), "leave", &format!("setsid {prints} &"));
    let backend = Backend::start().await;
    let config = format!(
        "base_url = \"{}\"\n[provider.wake]\ntype = \"command\"\ncommand = \"{leave}\"\nrun = \"detach\"\n",
        backend.url
    );
    assert_eq!(run_in(directory.path(), &config, &[]).await, "None\n");
    let ticks = || fs::read(directory.path().join("ticks")).unwrap_or_default().len();
    let before = ticks();
    eventually("more ticks", || ticks() > before + 10).await;
    let prints = pids(directory.path(), &["prints"]).await[0];
    let shim = parent(prints);
    kill_group(prints, Signal::KILL);
    eventually("the end of the shim", || !alive(shim)).await;
}

async fn a_detached_command_that_has_just_succeeded_is_not_waited_for_by_whoever_cancels_it() {
    let directory = directory();
    let command = action(&leaver(directory.path()), &["0"]);
    let shims = Shims::of_this_program().expect("a program");
    let start = Start::new(&command, GRACE).detached();
    let mut child = Child::start(&shims, start).await.expect("started");
    eventually("the command's end", || !alive(child.id())).await;
    // What it left lives on, and so does the shim that reads what is printed.
    let exit = timeout(Duration::from_secs(60), child.end())
        .await
        .expect("no wait for those");
    assert_eq!(exit, Exit::Code(0));
    let [left] = pids(directory.path(), &["left"]).await[..] else {
        panic!("one")
    };
    assert!(alive(left));
    kill_group(left, Signal::KILL);
}

/// Where the output of `box/p` is kept in a folder.
fn output_in(directory: &Path) -> OutputFile {
    let id = ProviderId::new(
        AgentName::parse("box").expect("legal"),
        ProviderName::parse("p").expect("legal"),
    );
    OutputFile::of(&StateDir::new(directory.to_owned()), &id)
}

/// What is kept, without times and process ids.
fn kept(output: &OutputFile) -> Vec<String> {
    let lines = Reader::new(output.clone()).more().unwrap_or_default();
    let line = |line: String| {
        let (_, line) = line.split_once(' ').expect("a time");
        let digit = |c: char| c.is_ascii_digit();
        match line.split_once("as process ") {
            Some((line, pid)) => format!("{line}{}", pid.trim_matches(digit)),
            None => line.to_owned(),
        }
    };
    lines.into_iter().map(line).collect()
}

async fn what_commands_print_is_kept_on_the_machine_with_what_printed_it() {
    let once = "[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\nargs = [\"-c\", \"echo canary; echo why >&2; exit 3\"]";
    let once = format!("models = [\"m\"]\nbase_url = \"http://127.0.0.1:1\"\n{once}");
    // A served command, by its end while it boots, and when it is ended since it never answers.
    let served = async |script: &str, max_wait: &str| {
        let args = format!("\"-c\", \"{script}\"");
        let rest = format!("max_wait = \"{max_wait}\"");
        format!("models = [\"m\"]\n{}", serve_recipe("sh", &args, &rest).await)
    };
    for (config, expected) in [
        (
            once,
            &[
                "wake step 1 command * started ",
                "wake step 1 command | canary",
                "wake step 1 command | why",
                "wake step 1 command * exited with code 3",
                "wake * failed: step 1 command: the command exited with code 3",
            ][..],
        ),
        (
            served("echo booting; exit 7", "1h").await,
            &[
                "wake step 1 serve * started ",
                "wake step 1 serve | booting",
                "wake step 1 serve * exited with code 7",
                "wake * failed: probe: the served command exited with code 7",
            ],
        ),
        (
            served("echo loading; exec sleep 1000", "300ms").await,
            &[
                "wake step 1 serve * started ",
                "wake step 1 serve | loading",
                "wake step 1 serve * is stopped by the agent, or because the agent has ended",
                "wake step 1 serve * was ended by signal 15",
                "wake * failed: probe: not available within 300ms (`max_wait`): connection refused",
            ],
        ),
    ] {
        let directory = directory();
        let output = output_in(directory.path());
        let owned = Owned::with(control::Control::new(), &config, Some(directory.path()));
        owned.until(Hibernating).await;
        owned.wake();
        eventually("the output", || kept(&output).len() >= expected.len()).await;
        let kept = kept(&output);
        let begins = kept
            .iter()
            .zip(expected)
            .all(|(line, begin)| line.starts_with(begin));
        assert!(begins && kept.len() == expected.len(), "{kept:?}");
        let failure = owned.failed().await;
        assert!(!format!("{failure:?}").contains("canary"), "{failure:?}");
        owned.stop().await;
        let mode = fs::metadata(output.path()).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

async fn what_is_printed_after_the_agent_has_ended_is_kept_too() {
    let directory = directory();
    let output = output_in(directory.path());
    let prints = script(
        directory.path(),
        "prints",
        "while ! [ -e $1/go ]; do sleep 0.01; done; echo later",
    );
    let path = directory.path().display();
    let backend = Backend::start().await;
    let config = format!(
        "base_url = \"{}\"\n[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\n\
         args = [\"-c\", \"setsid {prints} {path} &\"]\nrun = \"detach\"\n",
        backend.url
    );
    // The agent is a process of its own here, and has ended when this returns.
    let variables = [("KEEP_IN", directory.path().to_str().expect("a path"))];
    assert_eq!(run_in(directory.path(), &config, &variables).await, "None\n");
    assert!(!kept(&output).concat().contains("later"));
    fs::write(directory.path().join("go"), "").expect("written");
    let line = "wake step 1 command | later".to_owned();
    eventually("the line", || kept(&output).contains(&line)).await;
}

async fn a_flood_of_output_costs_neither_memory_nor_disk() {
    let directory = directory();
    let output = output_in(directory.path());
    let shims = Shims::of_this_program()
        .expect("a program")
        .keeping(output.clone());
    let highest = directory.path().join("highest");
    let mut used = vec![];
    for mib in [1, 50] {
        let flood = format!(
            "head -c {mib}M /dev/zero; head -c {mib}M /dev/urandom; yes | head -c {mib}M; echo the end; \
             grep VmHWM /proc/$PPID/status > {}",
            highest.display()
        );
        let flood = action("sh", &["-c", &flood]);
        let mut child = Child::start(&shims, Start::new(&flood, GRACE))
            .await
            .expect("started");
        assert_eq!(child.ended().await, Exit::Code(0));
        let lines = kept(&output);
        let last = &lines[lines.len() - 2..];
        assert_eq!(last, ["command | the end", "command * exited with code 0"]);
        let highest = fs::read_to_string(&highest).expect("it looked");
        let kib = highest.split_ascii_whitespace().nth(1).expect("a number");
        used.push(kib.parse::<u64>().expect("a number"));
    }
    assert!(used[1] < used[0] + 8 * 1024, "memory grows: {used:?} KiB");
    let mut bytes = 0;
    for file in fs::read_dir(directory.path()).expect("files") {
        bytes += file.expect("a file").metadata().expect("there").len();
    }
    assert!(bytes <= 2 * MAX_FILE_BYTES + 100, "{bytes}");
}

async fn a_command_whose_output_cannot_be_kept_runs_all_the_same() {
    let directory = directory();
    let output = output_in(directory.path());
    fs::create_dir(output.path()).expect("in its place");
    let shims = Shims::of_this_program().expect("a program").keeping(output);
    let prints = action("sh", &["-c", "yes | head -c 10000000; exit 3"]);
    let mut child = Child::start(&shims, Start::new(&prints, GRACE))
        .await
        .expect("started");
    assert_eq!(child.ended().await, Exit::Code(3));
    assert!(child.printed().ends_with("y\ny\n"));
}

async fn a_hint_names_what_to_change_and_is_told_without_names_to_others() {
    let directory = directory();
    let needs = script(
        directory.path(),
        "needs",
        "echo HF_TOKEN is needed: set it; exit 7",
    );
    let config = |more: &str| {
        format!(
            "base_url = \"http://127.0.0.1:1\"\n[provider.wake]\ntype = \"command\"\ncommand = \"{needs}\"\nrun = \"serve\"\n{more}"
        )
    };
    let variables = [("HF_TOKEN", "canary-5ecr3t"), ("SHOW_HINT", "1")];
    let said = run_in(directory.path(), &config(""), &variables).await;
    assert!(
        said.contains("add env_pass = [\"HF_TOKEN\"] to its recipe"),
        "{said}"
    );
    let reason = "the served command exited with code 7; it lacks a variable that the agent has (`env_pass`)";
    assert!(said.contains(reason) && !said.contains("canary"), "{said}");
    for (more, variables) in [
        ("env_pass = [\"HF_*\"]", &variables[..]),
        ("env = { HF_TOKEN = \"x\" }", &variables),
        ("", &variables[1..]),
    ] {
        let said = run_in(directory.path(), &config(more), variables).await;
        assert!(
            said.contains("exited with code 7\"") && said.ends_with("None\n"),
            "{said}"
        );
    }

    let odd = script(directory.path(), "odd", "");
    fs::write(&odd, "#!/bin/sh\r\n").expect("written");
    for (command, said_to_the_owner) in [
        (
            "/dev/null/x".to_owned(),
            "can't run `/dev/null/x`: the program does not exist; correct `command`, or install `/dev/null/x`",
        ),
        (
            "no-such-program-anywhere".to_owned(),
            "can't run `no-such-program-anywhere`: the program was not found in PATH; install `no-such-program-anywhere`,",
        ),
        (odd, "the script has the line ends of Windows"),
    ] {
        let config = format!(
            "base_url = \"http://127.0.0.1:1\"\n[provider.wake]\ntype = \"command\"\ncommand = \"{command}\"\n"
        );
        let said = run_in(directory.path(), &config, &variables).await;
        assert!(said.contains(said_to_the_owner), "{said}");
    }
}

async fn a_command_runs_in_its_own_folder_or_in_one_that_it_can_write_to() {
    let (directory, work) = (directory(), directory());
    let [own, default] = [directory.path(), work.path()].map(|path| path.canonicalize().expect("a folder"));
    let shims = Shims::of_this_program().expect("a program");
    let shims = shims.working_in(default.clone());
    let mut look = action("sh", &["-c", "pwd > here"]);
    for (cwd, runs_in) in [(None, &default), (Some(own.clone()), &own)] {
        look.cwd = cwd;
        let mut child = Child::start(&shims, Start::new(&look, GRACE))
            .await
            .expect("started");
        assert_eq!(child.ended().await, Exit::Code(0));
        let seen = fs::read_to_string(runs_in.join("here")).expect("written");
        assert_eq!(Path::new(seen.trim()), runs_in);
    }
    look.cwd = Some(own.join("none"));
    let none = Child::start(&shims, Start::new(&look, GRACE)).await;
    assert_eq!(
        none.expect_err("no folder").to_string(),
        "its working directory (`cwd`) does not exist, or is not a directory"
    );
}

/// A recipe that serves this program as a backend, and the backend's base URL.
async fn serve_recipe(program: &str, args: &str, rest: &str) -> String {
    let url = Backend::free_url().await;
    let address = url.trim_start_matches("http://");
    let args = args.replace("ADDRESS", address);
    format!(
        "base_url = \"{url}\"\n[provider.wake]\ntype = \"command\"\ncommand = \"{program}\"\nargs = [{args}]\n\
         run = \"serve\"\nstop_grace = \"500ms\"\n{rest}"
    )
}

async fn a_served_backend_is_kept_watched_and_stopped() {
    let program = std::env::current_exe().expect("a program").display().to_string();
    let recipe = serve_recipe(&program, "\"serve-backend\", \"ADDRESS\"", "").await;
    for stop in [true, false] {
        let mut run = wake(&recipe, runner());
        assert_eq!(outcome(&mut run).await.failure, None);
        let mut child = run.ended().await.expect("the backend");
        let pid = child.id();
        assert!(alive(pid));
        assert!(
            futures::FutureExt::now_or_never(child.exited()).is_none(),
            "it still runs"
        );
        if stop {
            assert_eq!(child.stop().await, Exit::Signal(15));
        } else {
            kill(pid, Signal::KILL);
            assert_eq!(child.exited().await, Exit::Signal(9));
        }
        assert!(!alive(pid));
    }
}

async fn a_served_command_that_ends_while_booting_fails_the_wake_at_once() {
    let recipe = serve_recipe("sh", "\"-c\", \"echo canary; exit 7\"", "max_wait = \"1h\"").await;
    let mut run = wake(&recipe, runner());
    let outcome = outcome(&mut run).await;
    let failure = outcome.failure.expect("a failure");
    assert_eq!(
        (failure.stage.as_str(), failure.reason.as_str()),
        ("probe", "the served command exited with code 7")
    );
    assert_eq!(failure.kind, WakeFailureKind::Recipe);
    assert!(run.ended().await.is_none());
}

/// The recipe of a served command whose port another server has: this program, which lists `m`.
fn serve_beside(backend: &Backend, model: &str, script: &str, max_wait: &str) -> String {
    format!(
        "base_url = \"{}\"\nmodels = [\"{model}\"]\n[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\n\
         args = [\"-c\", \"{script}\"]\nrun = \"serve\"\nmax_wait = \"{max_wait}\"",
        backend.url
    )
}

/// How a reason names this program as the one that has the port of a backend.
fn taken_by_this_program(backend: &Backend) -> String {
    let (_, port) = backend.url.rsplit_once(':').expect("a port");
    let name = fs::read_to_string("/proc/self/comm").expect("Linux");
    format!(
        "port {port} is taken by `{}` (process {})",
        name.trim(),
        std::process::id()
    )
}

async fn a_server_that_has_the_port_of_a_served_command_is_never_taken_for_it() {
    let backend = Backend::start().await;
    let taken = taken_by_this_program(&backend);
    let mut run = wake(&serve_beside(&backend, "m", "exec sleep 1000", "1h"), runner());
    let failure = outcome(&mut run).await.failure.expect("a failure");
    let reason = format!("{taken}, so it isn't the served command that answers there: end that program");
    assert_eq!((failure.stage.as_str(), failure.reason), ("probe", reason));
    assert!(run.ended().await.is_none());

    let mut run = wake(&serve_beside(&backend, "x", "exec sleep 1000", "2s"), runner());
    let failure = outcome(&mut run).await.failure.expect("a failure");
    assert_eq!(
        (failure.kind, failure.stage.as_str()),
        (WakeFailureKind::Recipe, MODELS_STAGE)
    );
    let lists = "the server there lists `Org/Model`, `m`, not `x`";
    let reason = &failure.reason;
    assert!(
        reason.starts_with(lists) && reason.ends_with(&format!("; {taken}")),
        "{reason}"
    );
    run.stop().await;
}

async fn advice_about_other_models_ends_no_server_that_the_agent_has_started() {
    let backend = Backend::start().await;
    let of_another = serve_beside(&backend, "x", "exec sleep 1000", "2s");
    let program = std::env::current_exe().expect("a program").display().to_string();
    let url = Backend::free_url().await;
    let address = url.trim_start_matches("http://");
    let own = format!(
        "base_url = \"{url}\"\nmodels = [\"x\"]\n[provider.wake]\ntype = \"command\"\ncommand = \"{program}\"\n\
         args = [\"serve-backend\", \"{address}\"]\nrun = \"serve\"\nmax_wait = \"2s\""
    );
    for (recipe, is_maybe_another) in [(of_another, true), (own, false)] {
        let mut run = wake(&recipe, runner());
        let failure = outcome(&mut run).await.failure.expect("a failure");
        assert_eq!(failure.stage, MODELS_STAGE, "{failure:?}");
        let Progress::Ended(ended) = run.next().await else {
            panic!("it has failed");
        };
        let hint = ended.hint.expect("advice").to_string();
        assert!(hint.contains("correct `models`"), "{hint}");
        assert_eq!(hint.contains("end it"), is_maybe_another, "{hint}");
    }
}

async fn a_served_command_that_ends_because_its_port_is_taken_says_by_whom() {
    let backend = Backend::start().await;
    let recipe = serve_beside(&backend, "x", "exit 7", "1h");
    let mut run = wake(&recipe, runner());
    let failure = outcome(&mut run).await.failure.expect("a failure");
    let reason = format!(
        "the served command exited with code 7; {}",
        taken_by_this_program(&backend)
    );
    assert_eq!((failure.stage.as_str(), failure.reason), ("probe", reason));
    run.stop().await;
}

async fn a_served_command_may_end_the_server_that_it_replaces() {
    let program = std::env::current_exe().expect("a program").display().to_string();
    let url = Backend::free_url().await;
    let address = url.trim_start_matches("http://");
    let mut old = tokio::process::Command::new(&program);
    let old = old.args(["serve-backend", address]).kill_on_drop(true);
    let mut old = old.spawn().expect("a server");
    eventually("the old server", || std::net::TcpStream::connect(address).is_ok()).await;
    let pid = old.id().expect("it runs");
    let recipe = format!(
        "base_url = \"{url}\"\nmodels = [\"m\"]\n[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\n\
         args = [\"-c\", \"sleep 0.5; kill -9 {pid}; sleep 0.5; exec {program} serve-backend {address}\"]\n\
         run = \"serve\"\nmax_wait = \"1m\""
    );
    let mut run = wake(&recipe, runner());
    let outcome = outcome(&mut run).await;
    assert_eq!(outcome.failure, None);
    let ended = old.try_wait().expect("its state");
    assert!(ended.is_some(), "the old server has ended");
    assert!(
        std::net::TcpStream::connect(address).is_ok(),
        "the new one listens"
    );
    run.stop().await;
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "that was the child"
    );
}

/// A fake container: a server that is no descendant of the command that starts it. `$1` is `run` or `rm`.
fn container(directory: &Path, address: &str) -> String {
    let path = directory.display();
    let program = std::env::current_exe().expect("a program").display().to_string();
    // The keeper of the containers, which is somebody else's child.
    let text = format!(
        "echo $1 >> {path}/asked\ncase $1 in\n  run)\n    [ -e {path}/running ] && exit 125\n    touch {path}/wanted\n    \
         exec sleep 1000 ;;\n  rm)\n    [ -e {path}/running ] || exit 1\n    kill -9 $(cat {path}/running); rm {path}/running ;;\nesac"
    );
    let keeper = format!(
        "while :; do\n  if [ -e {path}/wanted ]; then\n    rm {path}/wanted\n    {program} serve-backend {address} &\n    \
         echo $! > {path}/running.new; mv {path}/running.new {path}/running\n  fi\n  sleep 0.01\ndone"
    );
    script(directory, "keeper", &keeper);
    script(directory, "docker", &text)
}

async fn a_container_that_outlives_its_client_is_ended_by_its_name() {
    let directory = directory();
    let url = Backend::free_url().await;
    let docker = container(directory.path(), url.trim_start_matches("http://"));
    let keeper = directory.path().join("keeper.sh");
    let mut keeper = tokio::process::Command::new(keeper);
    let mut keeper = keeper.kill_on_drop(true).spawn().expect("a keeper");
    let asked = || fs::read_to_string(directory.path().join("asked")).unwrap_or_default();
    let running = directory.path().join("running");
    let config = format!(
        "models = [\"m\"]\nbase_url = \"{url}\"\nprobe = {{ interval = \"100ms\" }}\n[provider.wake]\ntype = \"command\"\ncommand = \"{docker}\"\nargs = [\"run\"]\n\
         run = \"serve\"\nend = {{ command = \"{docker}\", args = [\"rm\"] }}"
    );
    let owned = Owned::start(&config);
    owned.until(Hibernating).await;
    for _ in 0..2 {
        owned.wake();
        owned.until(Active).await;
        assert_eq!(owned.handle.sleep().await, Ok(()));
        owned.until(Hibernating).await;
        assert!(!running.exists(), "the container was left behind");
    }
    assert_eq!(asked(), "rm\nrun\nrm\nrm\nrun\nrm\n");

    // One that an earlier run of the agent has left is used, and can be put to sleep.
    owned.stop().await;
    fs::write(directory.path().join("wanted"), "").expect("written");
    let owned = Owned::start(&config);
    owned.until(Active).await;
    assert_eq!(owned.handle.sleep().await, Ok(()));
    owned.until(Hibernating).await;
    assert!(!running.exists());
    owned.stop().await;
    keeper.kill().await.expect("ended");
}

async fn a_served_command_that_goes_into_the_background_has_a_reason() {
    let directory = directory();
    let recipe = serve_recipe(&leaver(directory.path()), "", "max_wait = \"1h\"").await;
    let mut run = wake(&recipe, runner());
    let failure = outcome(&mut run).await.failure.expect("a failure");
    run.stop().await;
    for part in ["`left.sh` (process ", "run = \"detach\"", "exited with code 0"] {
        assert!(failure.reason.contains(part), "{part}: {}", failure.reason);
    }
}

async fn a_served_command_that_never_answers_is_reported_first_and_then_ended() {
    let directory = directory();
    let recipe = serve_recipe(&family(directory.path()), "", "max_wait = \"1500ms\"").await;
    let mut run = wake(&recipe.replace("500ms\"\nmax", "2s\"\nmax"), runner());
    let family = pids(directory.path(), &FAMILY).await;
    let failure = outcome(&mut run).await.failure.expect("a failure");
    assert_eq!(failure.kind, WakeFailureKind::Unavailable);
    assert!(
        family.iter().all(|pid| alive(*pid)),
        "the outcome waited for the grace"
    );
    assert!(run.ended().await.is_none());
    assert!(!family.iter().any(|pid| alive(*pid)), "left over");
}

async fn a_cancelled_or_dropped_run_leaves_nothing_behind() {
    for stop in [true, false] {
        let directory = directory();
        let program = family(directory.path());
        let rest = format!(
            "base_url = \"http://127.0.0.1:1\"\n[provider.wake]\ntype = \"command\"\ncommand = \"{program}\"\ntimeout = \"1h\""
        );
        let run = wake(&rest, runner());
        let family = pids(directory.path(), &FAMILY).await;
        if stop {
            run.stop().await;
            assert!(!family.iter().any(|pid| alive(*pid)), "left over");
        } else {
            drop(run);
            eventually("the end of the family", || !family.iter().any(|pid| alive(*pid))).await;
        }
    }
}

async fn a_child_whose_shim_is_killed_is_ended() {
    let directory = directory();
    let program = family(directory.path());
    let mut child = start(&program, &[]).await;
    let family = pids(directory.path(), &FAMILY).await;
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("alive");
    let shim = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(1))
        .expect("a parent");
    kill(shim.parse().expect("a pid"), Signal::KILL);
    assert_eq!(child.exited().await, Exit::Lost);
    eventually("the end of the group", || {
        !family[..2].iter().any(|pid| alive(*pid))
    })
    .await;
    // Out of reach of an agent that has lost the shim: the documented limit.
    let session = rustix::process::getpgid(Pid::from_raw(family[2])).expect("alive");
    kill_process_group(session, Signal::KILL).expect("ended");
}

async fn the_next_command_gets_the_shim_that_waits_or_another_if_it_was_killed() {
    let mut agent = tokio::process::Command::new(std::env::current_exe().expect("a program"));
    let agent = agent.arg("keep-a-shim-ready");
    let agent = agent.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut agent = agent.kill_on_drop(true).spawn().expect("an agent");
    let mut input = agent.stdin.take().expect("a pipe");
    let mut said = BufReader::new(agent.stdout.take().expect("a pipe")).lines();
    let pid = agent.id().expect("alive");
    let waiting = async |not: i32| {
        let mut found = None;
        eventually("a shim that waits", || {
            found = match descendants(pid)[..] {
                [only] => i32::try_from(only).ok().filter(|only| *only != not),
                _ => None,
            };
            found.is_some()
        })
        .await;
        found.expect("found")
    };
    let mut parent = async || {
        input.write_all(b"next\n").await.expect("told");
        let line = said.next_line().await.expect("said").expect("a line");
        line.parse::<i32>().expect("a pid")
    };

    let first = waiting(0).await;
    assert_eq!(parent().await, first);
    let second = waiting(first).await;
    kill(second, Signal::KILL);
    eventually("its end", || !alive(second)).await;
    assert_ne!(parent().await, second);
    let third = waiting(second).await;
    agent.kill().await.expect("killed");
    eventually("the end of the one that waits", || !alive(third)).await;
}

/// The owner of a backend that this program serves, awake, and the backend's address.
async fn served() -> (Owned, String) {
    let program = std::env::current_exe().expect("a program").display().to_string();
    let rest = "[provider.sleep]\nidle_after = \"1h\"";
    let recipe = serve_recipe(&program, "\"serve-backend\", \"ADDRESS\"", rest).await;
    let address = recipe
        .split('"')
        .nth(1)
        .expect("a URL")
        .trim_start_matches("http://")
        .to_owned();
    let owned = Owned::start(&format!("models = [\"m\"]\n{recipe}"));
    owned.until(Hibernating).await;
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    owned.until(Active).await;
    (owned, address)
}

/// The one process that serves at `address`.
fn server_at(address: &str) -> i32 {
    let serves = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0).skip(1);
        words.next() == Some(b"serve-backend") && words.next() == Some(address.as_bytes())
    };
    let all = fs::read_dir("/proc").expect("processes");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let found: Vec<i32> = pids.filter(serves).collect();
    assert_eq!(found.len(), 1, "one at a time");
    found[0]
}

async fn a_served_backend_that_dies_is_reported_and_started_again_by_the_next_wake() {
    let (owned, address) = served().await;
    let first = server_at(&address);
    kill(first, Signal::KILL);
    owned.until(Hibernating).await;
    assert_eq!(owned.control.sleeps(), [SleepReason::Exited]);
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    owned.until(Active).await;
    let second = server_at(&address);
    assert_ne!(first, second);
    owned.stop().await;
    assert!(!alive(second));
}

async fn a_served_backend_sleeps_by_ending_and_ends_with_its_agent() {
    let (owned, address) = served().await;
    let first = server_at(&address);
    assert_eq!(owned.handle.sleep().await, Ok(()));
    owned.until(Hibernating).await;
    assert_eq!(owned.control.sleeps(), [SleepReason::Operator]);
    // The wake comes while the backend is still ending.
    owned.handle.send(Input::Wake(owned.control.request_wake()));
    owned.until(Active).await;
    assert!(!alive(first));
    let second = server_at(&address);
    owned.stop().await;
    assert!(!alive(second));
}

async fn a_sleep_step_may_end_the_served_backend() {
    let directory = directory();
    let path = directory.path().display();
    let program = std::env::current_exe().expect("a program").display().to_string();
    let serve = script(
        directory.path(),
        "serve",
        &format!("echo $$ > {path}/pid\nexec {program} \"$@\""),
    );
    // It goes on for a moment after the backend has ended.
    let end = script(
        directory.path(),
        "end",
        &format!(
            "kill $(cat {path}/pid)\nwhile kill -0 $(cat {path}/pid) 2>/dev/null; do :; done\nsleep 0.1"
        ),
    );
    let sleep = format!("[provider.sleep]\ntype = \"command\"\ncommand = \"{end}\"");
    let recipe = serve_recipe(&serve, "\"serve-backend\", \"ADDRESS\"", &sleep).await;
    let owned = Owned::start(&format!("models = [\"m\"]\n{recipe}"));
    owned.until(Hibernating).await;
    for sleeps in 1..=3 {
        owned.handle.send(Input::Wake(owned.control.request_wake()));
        owned.until(Active).await;
        assert_eq!(owned.handle.sleep().await, Ok(()));
        owned.until(Hibernating).await;
        assert_eq!(owned.control.sleeps(), vec![SleepReason::Operator; sleeps]);
    }
    assert_eq!(owned.control.provider().failures.count, 0);
}

async fn a_new_wake_starts_nothing_before_the_last_one_is_gone() {
    let directory = directory();
    let path = directory.path().display();
    // Never answers, ignores TERM, and notices when there are two of it.
    let text = format!(
        "trap '' TERM\nkill -0 $(cat {path}/pid) 2>/dev/null && touch {path}/doubled\n\
         echo $$ > {path}/pid\necho x >> {path}/starts\nwhile :; do sleep 1000; done"
    );
    let recipe = serve_recipe(
        &script(directory.path(), "solo", &text),
        "",
        "max_wait = \"300ms\"",
    )
    .await;
    let owned = Owned::start(&format!("models = [\"m\"]\n{recipe}"));
    let starts = || {
        fs::read(directory.path().join("starts"))
            .unwrap_or_default()
            .len()
            / 2
    };
    for run in 1..=2 {
        owned.until(Hibernating).await;
        owned.handle.send(Input::Wake(owned.control.request_wake()));
        eventually("the start", || starts() == run).await;
    }
    assert!(!directory.path().join("doubled").exists());
    owned.stop().await;
}

async fn ctrl_c_in_the_terminal_goes_past_the_child() {
    let child = start("sleep", &["1000"]).await;
    let group = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("alive");
        let fields: Vec<i32> = stat
            .rsplit(')')
            .next()
            .expect("fields")
            .split_whitespace()
            .skip(1)
            .take(2)
            .map(|f| f.parse().expect("a number"))
            .collect();
        (fields[0], fields[1])
    };
    let (shim, child_group) = group(child.id());
    let (_, shim_group) = group(shim);
    let own = rustix::process::getpgrp().as_raw_pid();
    assert!(own != child_group && own != shim_group && child_group != shim_group);
    kill(shim, Signal::TERM);
    assert_eq!(
        child.stop().await,
        Exit::Signal(15),
        "a signal to the shim ends the child first"
    );
}
