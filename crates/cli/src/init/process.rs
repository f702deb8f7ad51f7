//! How a server of this machine was started, as `/proc` shows it.
//!
//! Other systems have no `/proc`, and the processes of other users show nothing there: then the origin is unknown.

use reveille_agent::{child::find_program, listeners::listener_on};
use rustix::process::Pid;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The most arguments that a config may have.
const MAX_ARGS: usize = 256;
/// What is appended to the path of a file that was deleted.
const DELETED: &str = " (deleted)";

/// The variable for the key of a server's clients.
const KEY: &str = "BACKEND_KEY";

/// Programs at the outer end of a container's port.
const OF_CONTAINERS: [&str; 7] = [
    "docker-proxy",
    "com.docker",
    "rootlessport",
    "slirp4netns",
    "pasta",
    "conmon",
    "gvproxy",
];
/// Programs that pass connections on to a server elsewhere.
const FORWARDERS: [&str; 6] = ["ssh", "kubectl", "socat", "nginx", "caddy", "haproxy"];
/// What the control group of a process in a container has in its name.
const CONTAINER_GROUPS: [&str; 6] = ["docker", "libpod", "containerd", "kubepods", "crio", "lxc"];

/// The variables by which servers are configured and find their GPUs.
const VARIABLES: [&str; 3] = ["LD_LIBRARY_PATH", "PORT", "PYTHONPATH"];
const VARIABLE_PREFIXES: [&str; 14] = [
    "CUDA_",
    "GGML_",
    "HF_",
    "HIP_",
    "HSA_",
    "HUGGING_FACE_",
    "LLAMA_",
    "NCCL_",
    "OLLAMA_",
    "PYTORCH_",
    "ROCR_",
    "SGLANG_",
    "TRANSFORMERS_",
    "VLLM_",
];

/// How a server was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// By a command.
    Command(ServerCommand),
    /// By systemd.
    Unit(Unit),
    /// In a container.
    Container,
    /// Elsewhere: on this port a program of this name passes connections on.
    Forwarded(&'static str),
    /// It can't be seen.
    Unknown,
    /// It doesn't run.
    Installed(Installed),
}

/// How a program that doesn't run would be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub start: Start,
    /// What keeps the recipe from holding: a sentence.
    pub lacks: Option<String>,
    /// What else a person should know: a sentence.
    pub note: Option<String>,
}

/// Who starts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The agent, which runs it.
    Serve {
        /// An absolute path, or a name that any `PATH` finds.
        program: String,
        args: Vec<String>,
        /// Variables with their values.
        variables: Vec<(&'static str, String)>,
    },
    /// LM Studio's own command, by this name.
    Lms(String),
    /// systemd.
    Unit(Unit),
}

impl Installed {
    /// What the agent would run.
    pub fn serve(program: String, args: Vec<String>) -> Self {
        Self {
            start: Start::Serve {
                program,
                args,
                variables: vec![],
            },
            lacks: None,
            note: None,
        }
    }
}

/// A systemd unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name, such as `ollama.service`.
    pub name: String,
    /// Whether it belongs to a user's systemd.
    pub of_user: bool,
}

/// The command of a running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCommand {
    /// The running process.
    pub pid: Pid,
    /// An absolute path, or the name that `PATH` finds it by.
    pub program: String,
    pub args: Vec<Arg>,
    /// The folder that it runs in.
    pub folder: PathBuf,
    /// Whether an argument names a file relative to that folder.
    pub uses_folder: bool,
    /// The names of its variables that may matter to it.
    pub variables: Vec<String>,
    /// What may keep the same command from having the same effect: parts of a sentence.
    pub doubts: Vec<String>,
}

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    Plain(String),
    /// What comes before a secret, such as `--api-key=`, and the variable that is to hold it.
    Secret(String, String),
}

impl ServerCommand {
    /// Whether an argument is the key that its clients need.
    pub fn takes_key(&self) -> bool {
        self.args.iter().any(|arg| arg.secret() == Some(KEY))
    }
}

/// How the server that listens on this address of this machine was started.
pub fn origin(address: SocketAddr) -> Origin {
    let listener = listener_on(address).and_then(|process| Pid::from_raw(process.pid));
    let seen = listener.and_then(|pid| Some((Seen::read(pid)?, Surroundings::of(pid)?)));
    let own = Surroundings::of(rustix::process::getpid());
    match (seen, own) {
        (Some((seen, surroundings)), Some(own)) => classify(&seen, &surroundings, &own),
        _ => Origin::Unknown,
    }
}

fn classify(seen: &Seen, surroundings: &Surroundings, own: &Surroundings) -> Origin {
    let named = |names: &[&'static str]| {
        let program = seen.exe.file_name()?.to_str()?;
        let is = |name: &&&str| program == **name || program.starts_with(&format!("{name}."));
        names.iter().find(is).copied()
    };
    if named(&OF_CONTAINERS).is_some() || surroundings.is_contained_beside(own) {
        return Origin::Container;
    }
    if let Some(forwarder) = named(&FORWARDERS) {
        return Origin::Forwarded(forwarder);
    }
    match surroundings.unit() {
        // A unit with this command in it is a terminal's, or that of a test: it isn't the server's own.
        Some(unit) if Some(&unit) != own.unit().as_ref() => Origin::Unit(unit),
        _ => {
            let set_here = |name: &str| std::env::var(name).ok();
            let command = seen.command(surroundings.user == own.user, &set_here);
            command.map_or(Origin::Unknown, Origin::Command)
        }
    }
}

/// A file of `/proc` about a process.
fn file_of(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_pid()))
}

/// Where a process runs.
struct Surroundings {
    user: u32,
    groups: String,
    pids: Option<PathBuf>,
}

impl Surroundings {
    fn of(pid: Pid) -> Option<Self> {
        Some(Self {
            user: fs::metadata(file_of(pid, "")).ok()?.uid(),
            groups: fs::read_to_string(file_of(pid, "cgroup")).unwrap_or_default(),
            pids: fs::read_link(file_of(pid, "ns/pid")).ok(),
        })
    }

    /// Whether it is in a container that this program isn't in.
    fn is_contained_beside(&self, own: &Self) -> bool {
        let marked = |surroundings: &Self| {
            CONTAINER_GROUPS
                .iter()
                .any(|mark| surroundings.groups.contains(mark))
        };
        let apart = self.pids.is_some() && own.pids.is_some() && self.pids != own.pids;
        apart || marked(self) && !marked(own)
    }

    /// The unit that its control group belongs to. Reveille's own units start servers too, by their command.
    fn unit(&self) -> Option<Unit> {
        let paths = self.groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            matches!(controllers, "" | "name=systemd").then_some(path)
        });
        let legal = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        let mut units = paths.filter_map(|path| {
            let name = path.rsplit('/').next()?;
            let is_unit = name.ends_with(".service") && name.chars().all(legal);
            let is_ours = name.starts_with("reveille");
            (is_unit && !is_ours && !name.starts_with("user@")).then(|| Unit {
                name: name.to_owned(),
                of_user: path.contains("/user@"),
            })
        });
        units.next()
    }
}

/// What `/proc` shows of a process.
struct Seen {
    pid: Pid,
    argv: Vec<String>,
    exe: PathBuf,
    folder: PathBuf,
    variables: BTreeMap<String, String>,
}

impl Seen {
    fn read(pid: Pid) -> Option<Self> {
        let cmdline = String::from_utf8(fs::read(file_of(pid, "cmdline")).ok()?).ok()?;
        let argv = cmdline.strip_suffix('\0').unwrap_or(&cmdline).split('\0');
        let environ = fs::read(file_of(pid, "environ")).unwrap_or_default();
        let variables = environ.split(|byte| *byte == 0).filter_map(|variable| {
            let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        let exe = fs::read_link(file_of(pid, "exe")).ok()?;
        Some(Self {
            pid,
            argv: argv.map(str::to_owned).collect(),
            // A program that was updated since runs by the same path.
            exe: exe
                .to_str()
                .and_then(|exe| exe.strip_suffix(DELETED))
                .map_or_else(|| exe.clone(), PathBuf::from),
            folder: fs::read_link(file_of(pid, "cwd")).ok()?,
            variables: variables.collect(),
        })
    }

    /// The command that starts it again; `None` if no config could have it.
    fn command(&self, same_user: bool, set_here: &dyn Fn(&str) -> Option<String>) -> Option<ServerCommand> {
        let (name, rest) = self.argv.split_first()?;
        if name.is_empty() || rest.len() > MAX_ARGS {
            return None;
        }
        let mut doubts = vec![];
        let program = self.program(name).unwrap_or_else(|| {
            doubts.push("the process has changed its own command line".to_owned());
            self.exe.display().to_string()
        });
        if find_program(&program, None).is_err() {
            doubts.push("its program can't be run from here".to_owned());
        }
        if !same_user {
            doubts.push("it belongs to another user".to_owned());
        }
        let args = without_secrets(rest);
        let secrets: BTreeSet<_> = args.iter().filter_map(Arg::secret).collect();
        if !secrets.is_empty() {
            doubts.push(format!(
                "the agent needs {} for a secret argument",
                listed(&secrets)
            ));
        }
        let uses_folder = rest.iter().any(|arg| self.is_relative(arg));
        if uses_folder && !self.folder.is_dir() {
            doubts.push("the folder it was started in is gone".to_owned());
        }
        let variables = self.variables.iter().filter(|(name, _)| matters(name));
        let unset = variables
            .clone()
            .filter(|(name, value)| set_here(name).as_ref() != Some(*value));
        let unset: BTreeSet<_> = unset.map(|(name, _)| name.as_str()).collect();
        if !unset.is_empty() {
            doubts.push(format!("the agent needs {} as the server has it", listed(&unset)));
        }
        Some(ServerCommand {
            pid: self.pid,
            program,
            args,
            folder: self.folder.clone(),
            uses_folder,
            variables: variables.map(|(name, _)| name.clone()).collect(),
            doubts,
        })
    }

    /// The program as a config may name it. The path that it was called by comes first, since that of a Python environment
    /// is a link, and the interpreter behind it wouldn't find the environment's packages.
    fn program(&self, name: &str) -> Option<String> {
        let is_it = |file: &Path| {
            let [file, exe] = [file, &self.exe].map(|file| fs::canonicalize(file).ok());
            file.is_some() && file == exe
        };
        if name.contains('/') {
            let file = self.folder.join(name);
            return is_it(&file).then(|| plain(&file).display().to_string());
        }
        let theirs = self.variables.get("PATH").map(OsStr::new);
        match find_program(name, theirs) {
            Ok(file) if is_it(&file) => match find_program(name, None) {
                Ok(ours) if ours == file => Some(name.to_owned()),
                _ => Some(file.display().to_string()),
            },
            // Such as a version manager's script, which runs another program of the same name.
            Ok(_) => Some(self.exe.display().to_string()),
            Err(_) if self.exe.file_name() == Some(OsStr::new(name)) => Some(self.exe.display().to_string()),
            Err(_) => None,
        }
    }

    /// Whether an argument, or the value in it, names a file below the folder that it runs in.
    fn is_relative(&self, arg: &str) -> bool {
        let value = match arg.split_once('=') {
            Some((_, value)) => value,
            None if arg.starts_with('-') => return false,
            None => arg,
        };
        !value.is_empty() && !Path::new(value).is_absolute() && self.folder.join(value).exists()
    }
}

/// A path without `.` in it.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

fn matters(variable: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let known = VARIABLES.contains(&variable)
        || VARIABLE_PREFIXES
            .iter()
            .any(|prefix| variable.starts_with(prefix));
    known && variable.chars().all(legal)
}

impl Arg {
    fn secret(&self) -> Option<&str> {
        match self {
            Self::Secret(_, variable) => Some(variable),
            Self::Plain(_) => None,
        }
    }
}

/// The arguments, with variables in place of what may be a secret. One too many is easily put back.
fn without_secrets(args: &[String]) -> Vec<Arg> {
    let mut variable = None;
    let args = args.iter().map(|arg| {
        if let Some((flag, _)) = arg.split_once('=')
            && let Some(name) = names_secret(flag)
        {
            variable = None;
            return Arg::Secret(format!("{flag}="), name);
        }
        if arg.starts_with('-') {
            variable = names_secret(arg);
            return Arg::Plain(arg.clone());
        }
        match &variable {
            Some(variable) => Arg::Secret(String::new(), variable.clone()),
            None if looks_secret(arg) => Arg::Secret(String::new(), "BACKEND_SECRET".to_owned()),
            None => Arg::Plain(arg.clone()),
        }
    });
    args.collect()
}

/// The variable for the value of a flag such as `--api-key`.
fn names_secret(flag: &str) -> Option<String> {
    let name = flag.trim_start_matches('-').to_ascii_uppercase();
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    match name.rsplit('_').next()? {
        "KEY" | "KEYS" if name.contains("API") => Some(KEY.to_owned()),
        "KEY" | "KEYS" | "TOKEN" | "SECRET" | "PASSWORD" | "PASSWD" | "APIKEY" => Some(name),
        "HFT" => Some("HF_TOKEN".to_owned()),
        _ => None,
    }
}

fn looks_secret(value: &str) -> bool {
    let has_user = value.contains("://") && value.contains('@');
    let lower = value.to_ascii_lowercase();
    let in_json = value.starts_with('{')
        && ["key", "token", "secret", "password"]
            .iter()
            .any(|word| lower.contains(word));
    value.starts_with("sk-") || value.starts_with("hf_") || has_user || in_json
}

fn listed(names: &BTreeSet<&str>) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn seen(argv: &[&str], exe: &str, folder: &Path) -> Seen {
        Seen {
            pid: rustix::process::getpid(),
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            exe: fs::canonicalize(exe).unwrap(),
            folder: folder.to_owned(),
            variables: BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap())]),
        }
    }

    fn command(seen: &Seen) -> ServerCommand {
        seen.command(true, &|_| None).expect("a command")
    }

    fn surroundings(groups: &str, namespace: &str) -> Surroundings {
        Surroundings {
            user: 1000,
            groups: groups.to_owned(),
            pids: Some(namespace.into()),
        }
    }

    #[test]
    fn a_program_is_named_as_path_finds_it_or_else_by_the_path_it_was_called_by() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("python");
        symlink("/bin/sh", &link).unwrap();
        let link = link.display().to_string();
        for (name, program, doubted) in [
            ("sh", "sh", false),
            (link.as_str(), link.as_str(), false),
            ("./python", link.as_str(), false),
            // As some programs change their command lines.
            ("VLLM::EngineCore", "", true),
            ("nginx: master process /usr/sbin/nginx", "", true),
        ] {
            let found = command(&seen(&[name], "/bin/sh", folder.path()));
            assert_eq!(!found.doubts.is_empty(), doubted, "{name}: {:?}", found.doubts);
            assert!(doubted || found.program == program, "{}", found.program);
        }
        // Found only by the server's own PATH, such as that of a Python environment.
        let mut in_environment = seen(&["python"], "/bin/sh", folder.path());
        in_environment
            .variables
            .insert("PATH".to_owned(), folder.path().display().to_string());
        assert_eq!(command(&in_environment).program, link);
    }

    #[test]
    fn a_folder_matters_if_an_argument_is_a_file_in_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("models")).unwrap();
        fs::write(folder.path().join("models/m.gguf"), "").unwrap();
        for (args, uses) in [
            (&["-m", "models/m.gguf"][..], true),
            (&["--model=models/m.gguf"], true),
            (&["-m", "/models/m.gguf", "--port", "8080"], false),
            (&["serve", "Qwen/Qwen3-8B"], false),
        ] {
            let found = command(&seen(&[&["sh"], args].concat(), "/bin/sh", folder.path()));
            assert_eq!(found.uses_folder, uses, "{args:?}");
            assert!(found.doubts.is_empty(), "{:?}", found.doubts);
        }
    }

    #[test]
    fn no_secret_is_taken_from_a_command_line() {
        let secret = "s3cret";
        for (args, variable) in [
            (&["--api-key", secret][..], "BACKEND_KEY"),
            (&["--api-key", secret, secret, "--port", "1"], "BACKEND_KEY"),
            (&["--api-key=s3cret"], "BACKEND_KEY"),
            (&["--hf-token", secret], "HF_TOKEN"),
            (&["-hft", secret], "HF_TOKEN"),
            (&["--admin_password", secret], "ADMIN_PASSWORD"),
            (&["api_key=s3cret"], "BACKEND_KEY"),
            (&["sk-s3cret"], "BACKEND_SECRET"),
            (&["--model", "https://u:s3cret@host/m"], "BACKEND_SECRET"),
            (&["--config", "{\"api_key\": \"s3cret\"}"], "BACKEND_SECRET"),
        ] {
            let found = command(&seen(&[&["sh"], args].concat(), "/bin/sh", Path::new("/")));
            assert!(!format!("{found:?}").contains(secret), "{found:?}");
            let expected = format!("the agent needs `{variable}` for a secret argument");
            assert_eq!(found.doubts, [expected], "{args:?}");
        }
        let harmless = [
            "--max-num-batched-tokens",
            "8192",
            "--tokenizer",
            "t",
            "--eos-token-id",
            "2",
            "--api-key-file",
            "/k",
        ];
        let found = command(&seen(
            &[&["sh"], &harmless[..]].concat(),
            "/bin/sh",
            Path::new("/"),
        ));
        assert_eq!(found.args, harmless.map(|arg| Arg::Plain(arg.to_owned())));
    }

    #[test]
    fn variables_are_named_and_must_be_set_for_the_agent_too() {
        let mut server = seen(&["sh"], "/bin/sh", Path::new("/"));
        for (name, value) in [
            ("VLLM_API_KEY", "s3cret"),
            ("CUDA_VISIBLE_DEVICES", "1"),
            ("EDITOR", "vi"),
            ("HF_\n", "x"),
        ] {
            server.variables.insert(name.to_owned(), value.to_owned());
        }
        let here = |name: &str| (name == "CUDA_VISIBLE_DEVICES").then(|| "1".to_owned());
        let found = server.command(true, &here).unwrap();
        assert_eq!(found.variables, ["CUDA_VISIBLE_DEVICES", "VLLM_API_KEY"]);
        assert_eq!(
            found.doubts,
            ["the agent needs `VLLM_API_KEY` as the server has it"]
        );
        assert!(!format!("{found:?}").contains("s3cret"));
        let foreign = server.command(false, &here).unwrap();
        assert!(foreign.doubts.contains(&"it belongs to another user".to_owned()));
    }

    #[test]
    fn a_unit_or_a_container_is_told_from_a_session() {
        let session = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let of_user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/llm.service\n";
        let own = surroundings(session, "pid:[1]");
        let shell = seen(&["sh"], "/bin/sh", Path::new("/"));
        let unit = |name: &str, of_user| {
            Origin::Unit(Unit {
                name: name.to_owned(),
                of_user,
            })
        };
        for (groups, namespace, origin) in [
            (
                "0::/system.slice/ollama.service\n",
                "pid:[1]",
                Some(unit("ollama.service", false)),
            ),
            (
                "8:pids:/x\n1:name=systemd:/system.slice/ollama.service\n0::/\n",
                "pid:[1]",
                Some(unit("ollama.service", false)),
            ),
            (of_user, "pid:[1]", Some(unit("llm.service", true))),
            (
                "0::/system.slice/docker-0123.scope\n",
                "pid:[1]",
                Some(Origin::Container),
            ),
            ("0::/\n", "pid:[2]", Some(Origin::Container)),
            (session, "pid:[1]", None),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope\n",
                "pid:[1]",
                None,
            ),
            // A server that an agent has started.
            ("0::/system.slice/reveille.service\n", "pid:[1]", None),
        ] {
            let found = classify(&shell, &surroundings(groups, namespace), &own);
            match origin {
                Some(origin) => assert_eq!(found, origin, "{groups}"),
                None => assert!(matches!(found, Origin::Command(_)), "{groups}: {found:?}"),
            }
        }
        // Both in the same unit, such as that of a terminal.
        let same = classify(
            &shell,
            &surroundings(of_user, "pid:[1]"),
            &surroundings(of_user, "pid:[1]"),
        );
        assert!(matches!(same, Origin::Command(_)), "{same:?}");
    }
}
