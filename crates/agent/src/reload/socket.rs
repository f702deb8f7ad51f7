//! How `reveille agent reload` reaches a running agent: through a socket in its state directory, which only the agent's user and
//! root can enter.
//!
//! A connection is one request: the agent sends each event of the reload as a line of JSON, and `done` at the end. If the agent
//! stops before that, the connection just ends.

use super::progress::{ReloadEvent, ReloadProgress};
use crate::state_dir::StateDir;
use reveille_domain::AgentName;
use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tracing::warn;

/// The file name of an agent's socket, after the agent's name.
const SOCKET: &str = ".reload.sock";
/// How many may follow reloads at once; more wait for one to end.
const FOLLOWERS: usize = 16;
/// The pause after a connection couldn't be accepted, for example because the process has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Takes requests for the session until this is dropped.
///
/// # Errors
/// When the socket can't be made, for example because its path is longer than the system's 107 bytes.
pub(crate) fn listen(
    state: &StateDir,
    agent: &AgentName,
    session: mpsc::Sender<ReloadProgress>,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let path = socket_of(state, agent);
    // An earlier run of this agent has left it, and doesn't answer there any more.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    Ok(async move {
        let permits = Arc::new(Semaphore::new(FOLLOWERS));
        let mut followers = tokio::task::JoinSet::new();
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let session = session.clone();
                    while followers.try_join_next().is_some() {}
                    followers.spawn(async move {
                        // Whoever asked may be gone; the reload goes on.
                        let _ = follow(stream, session).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "`reveille agent reload` can't reach this agent now; SIGHUP can");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

async fn follow(mut stream: UnixStream, session: mpsc::Sender<ReloadProgress>) -> io::Result<()> {
    let (progress, mut events) = ReloadProgress::followed();
    let gone = |_| io::Error::from(ErrorKind::BrokenPipe);
    session.send(progress).await.map_err(gone)?;
    while let Some(event) = events.recv().await {
        send(&mut stream, &event).await?;
    }
    send(&mut stream, &ReloadEvent::Done).await
}

async fn send(stream: &mut UnixStream, event: &ReloadEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// A running agent that was asked to reload its config.
#[derive(Debug)]
pub struct Asked {
    pub agent: AgentName,
    events: Lines<BufReader<UnixStream>>,
}

impl Asked {
    /// What the agent says next; `None` if it has ended. Cancel-safe.
    ///
    /// # Errors
    /// When the connection breaks, or the agent is of another version.
    pub async fn next(&mut self) -> io::Result<Option<ReloadEvent>> {
        let Some(line) = self.events.next_line().await? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_str(&line)?))
    }
}

/// Asks each running agent of a state directory to reload its config.
///
/// # Errors
/// When the folder can't be read, or an agent's socket can't be opened.
pub async fn agents(state: &StateDir) -> io::Result<Vec<Asked>> {
    let mut asked = Vec::new();
    for entry in fs::read_dir(state.path())? {
        if let Some(agent) = agent_of(&entry?.path()) {
            asked.extend(self::agent(state, &agent).await?);
        }
    }
    Ok(asked)
}

/// Asks one agent of a state directory to reload its config; `None` if it doesn't run.
///
/// # Errors
/// When its socket can't be opened.
pub async fn agent(state: &StateDir, agent: &AgentName) -> io::Result<Option<Asked>> {
    match UnixStream::connect(socket_of(state, agent)).await {
        Ok(stream) => Ok(Some(Asked {
            agent: agent.clone(),
            events: BufReader::new(stream).lines(),
        })),
        // There never was one, or it was killed.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

fn socket_of(state: &StateDir, agent: &AgentName) -> PathBuf {
    state.path().join(format!("{agent}{SOCKET}"))
}

fn agent_of(path: &Path) -> Option<AgentName> {
    let name = path.file_name()?.to_str()?.strip_suffix(SOCKET)?;
    AgentName::parse(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, getrlimit, setrlimit};
    use std::{env, fs::File, os::unix::net::UnixStream as Client, process::Command};

    /// Set in the process that has too few files.
    const ALONE: &str = "REVEILLE_TEST_WITHOUT_FILES";
    const FEW: u64 = 128;

    #[tokio::test]
    async fn one_agent_is_asked_and_no_other_of_the_same_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::new(folder.path().to_owned());
        let name = |name| AgentName::parse(name).expect("legal");
        let (sender, mut others) = mpsc::channel(1);
        let _other = tokio::spawn(listen(&state, &name("other"), sender).expect("a socket"));
        assert!(agent(&state, &name("box")).await.expect("asked").is_none());
        let (sender, mut session) = mpsc::channel(1);
        let _own = tokio::spawn(listen(&state, &name("box"), sender).expect("a socket"));
        let asked = agent(&state, &name("box")).await.expect("asked");
        assert_eq!(asked.expect("it runs").agent, name("box"));
        assert!(session.recv().await.is_some());
        assert!(others.try_recv().is_err());
        // A path that can't be a socket's folder isn't an agent that doesn't run.
        fs::write(folder.path().join("file"), "").expect("written");
        let state = StateDir::new(folder.path().join("file"));
        assert!(agent(&state, &name("box")).await.is_err());
    }

    /// The limit is one of the process, so this test runs in a process of its own.
    #[test]
    fn a_moment_without_free_files_ends_no_reload_for_good() {
        if env::var_os(ALONE).is_some() {
            return run_out_of_files();
        }
        let name = std::thread::current().name().expect("the test's").to_owned();
        let mut alone = Command::new(env::current_exe().expect("a program"));
        let alone = alone.args(["--exact", &name]).env(ALONE, "1").output();
        let alone = alone.expect("it ran");
        assert!(
            alone.status.success(),
            "{}",
            String::from_utf8_lossy(&alone.stdout)
        );
    }

    #[tokio::main(flavor = "current_thread", start_paused = true)]
    async fn run_out_of_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let agent = AgentName::parse("box").expect("legal");
        let (sender, mut session) = mpsc::channel(1);
        let listening = listen(&StateDir::new(folder.path().to_owned()), &agent, sender).expect("a socket");
        let mut listening = std::pin::pin!(listening);
        let path = folder.path().join(format!("{agent}{SOCKET}"));
        let _client = Client::connect(path).expect("it listens");

        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(FEW);
        setrlimit(Resource::Nofile, limit).expect("lowered");
        let taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(!taken.is_empty());
        tokio::select! {
            biased;
            () = &mut listening => panic!("it gave up"),
            _ = session.recv() => panic!("it had a file"),
            () = sleep(ACCEPT_PAUSE / 2) => {}
        }
        drop(taken);
        tokio::select! {
            () = &mut listening => panic!("it gave up"),
            asked = session.recv() => assert!(asked.is_some()),
        }
    }
}
