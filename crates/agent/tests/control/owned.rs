//! An owner that runs, with control and a config.

use crate::{
    backend::{Backend, eventually, named_provider, provider, runner},
    control::{Control, EPOCH},
};
use reveille_agent::{
    OwnHub,
    config::{Hours, ProviderConfig},
    hub::Superseded,
    models::Memory,
    owner_policy::OwnerPolicy,
    provider::{Groups, Handle, Input, Membership, Owner, ReportNumbers, Setup},
    state_dir::StateDir,
};
use reveille_bus::{HubId, relay::CurrentEpoch, wakes::WakeMessage};
use reveille_domain::{AgentName, WakeFailure, WakeFailureKind, provider::StatusName};
use std::path::Path;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A running owner; it ends with the test's runtime.
pub struct Owned {
    pub control: Control,
    pub handle: Handle,
    pub superseded: watch::Receiver<Option<Superseded>>,
    /// The hub of its agent, which isn't known at first.
    pub own_hub: OwnHub,
    stop: CancellationToken,
    task: JoinHandle<Option<Membership>>,
}

impl Owned {
    /// Starts the owner of the provider that `rest` describes.
    pub fn start(rest: &str) -> Self {
        Self::with(Control::new(), rest, None)
    }

    pub fn with(control: Control, rest: &str, memory: Option<&Path>) -> Self {
        Self::run(control, provider(rest), memory, Groups::default(), None)
    }

    /// The same for an agent of the hub with this id.
    pub fn at_hub(rest: &str, hub: HubId) -> Self {
        let control = Control::new();
        Self::run(control, provider(rest), None, Groups::default(), Some(hub))
    }

    /// Starts the owner of a member of `groups`.
    pub fn member(groups: &Groups, name: &str, rest: &str) -> Self {
        Self::member_with(groups, name, rest, None)
    }

    /// The same, with a state directory.
    pub fn member_with(groups: &Groups, name: &str, rest: &str, memory: Option<&Path>) -> Self {
        Self::run(
            Control::of(name),
            named_provider(name, rest),
            memory,
            groups.clone(),
            None,
        )
    }

    /// The same for an agent of the hub with this id.
    pub fn member_at_hub(groups: &Groups, name: &str, rest: &str, hub: HubId) -> Self {
        let config = named_provider(name, rest);
        Self::run(Control::of(name), config, None, groups.clone(), Some(hub))
    }

    fn run(
        control: Control,
        config: ProviderConfig,
        memory: Option<&Path>,
        groups: Groups,
        hub: Option<HubId>,
    ) -> Self {
        let epoch = CurrentEpoch::default();
        epoch.set(Some(EPOCH));
        let (sender, superseded) = watch::channel(None);
        let own_hub = OwnHub::of(hub);
        let agent = AgentName::parse("box").expect("legal");
        let state = memory.map(|path| StateDir::new(path.to_owned()));
        let setup = Setup {
            config,
            runner: runner(),
            hub: std::sync::Arc::new(control.clone()),
            epoch,
            own_hub: own_hub.clone(),
            memory: Memory::open(state.clone(), &agent),
            agent,
            groups,
            owner_policy: OwnerPolicy::new(state.clone(), Hours::default()),
            state,
            reports: ReportNumbers::default(),
            superseded: sender,
            sleep_changes: std::sync::Arc::default(),
        };
        let (owner, handle) = Owner::new(setup);
        let stop = CancellationToken::new();
        let task = tokio::spawn(owner.run(stop.clone()));
        Self {
            control,
            handle,
            superseded,
            own_hub,
            stop,
            task,
        }
    }

    pub async fn until(&self, status: StatusName) {
        eventually(<&str>::from(status), || self.control.status() == Some(status)).await;
    }

    /// Whether it has left.
    pub fn has_left(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until it has left.
    pub async fn leaves(self) {
        drop(self.task.await.expect("no panic"));
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
    }
}

impl Owned {
    /// Asks for a wake, and sends it.
    pub fn wake(&self) -> WakeMessage {
        let wake = self.control.request_wake();
        self.handle.send(Input::Wake(wake.clone()));
        wake
    }

    /// The same, for a request that waits for it.
    pub fn wake_for_request(&self) -> WakeMessage {
        let wake = self.control.wake_for_request();
        self.handle.send(Input::Wake(wake.clone()));
        wake
    }

    /// Sends the wake in flight again, as sweeps do.
    pub fn repeat_wake(&self) {
        if let Some(wake) = self.control.wake_in_flight() {
            self.handle.send(Input::Wake(wake));
        }
    }

    /// Why its last wake failed, as soon as it has.
    pub async fn failed(&self) -> WakeFailure {
        self.until(StatusName::Hibernating).await;
        let wake = self.control.last_wake().expect("a wake");
        wake.failure.expect("a failure")
    }

    /// The same, of one that its group gave no room.
    pub async fn blocked(&self) -> WakeFailure {
        let failure = self.failed().await;
        assert_eq!(
            (failure.kind, failure.stage.as_str()),
            (WakeFailureKind::GroupBlocked, "group")
        );
        failure
    }
}

/// A member of `gpu0` with a backend of its own, which is put to sleep by a POST to `sleep`.
pub fn member(backend: &Backend, sleep: &str, terms: &str) -> String {
    format!(
        r#"
        base_url = "{0}"
        models = ["m"]
        exclusive = "gpu0"
        {terms}
        probe = {{ path = "/is_sleeping", expect = {{ is_sleeping = false }}, interval = "1h" }}
        [provider.wake]
        type = "http"
        url = "{0}/wake"
        [provider.sleep]
        min_awake = "1ms"
        type = "http"
        url = "{0}{sleep}"
        "#,
        backend.url
    )
}
