//! A cloud with a will of its own: its listing lags, its answers get lost, its deletions take long, and it keeps a
//! ledger that `lane` never sees. Knows nothing of state; the harness lends it a look at what is on the disk.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use super::computer::Computer;
use super::fate::Fate;
use crate::plan::Fingerprint;
use crate::provider::{
    ClientToken, CreateRequest, Entry, Host, HostId, HostStatus, KvmSupport, Label, Listed, Provider,
    ProviderError, Region, Residue, Selector, Sku,
};
use crate::world::World;

/// How long the listing may hide a fresh host; what the entry promises.
pub(super) const LAG: Duration = Duration::from_secs(10);

pub(super) static ENTRY: Entry = Entry {
    name: "example",
    about: "a cloud in memory",
    credentials: &[],
    kept: &[],
    kept_beside: &[],
    stands_for_itself: &[],
    sign_in: "",
    files: |_| vec![],
    tools: &[],
    endpoint: |_, _| String::new(),
    default_sku: Sku::fixed("small"),
    default_region: Region::fixed("here"),
    default_image: "image",
    listing_lag: LAG,
    provision_timeout: Duration::from_mins(10),
    user_data_limit: 65_536,
    cloud_clock: false,
    timer_stops_bill: false,
    region_key: "region",
    init_keys: String::new,
    schema: |_| schemars::Schema::default(),
    kvm: |_| KvmSupport::Unknown,
    prices: &[Listed::new("small", "", 250_000, "EUR", "a test, 2026-05-06")],
    connect: |_: &World, _, _| {
        Err(ProviderError::Unavailable {
            provider: "example",
            message: "it lives in the simulation".to_owned(),
            remedy: "none".to_owned(),
        })
    },
};

tokio::task_local! {
    /// Whoever asks sweeps what has ended, and may take nothing else.
    pub(super) static ENDED_ONLY: ();
}

/// How often, in percent of the calls, something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weather {
    /// Errors and lost answers of the cloud.
    pub(super) cloud: u8,
    /// Lost connections to the host.
    pub(super) network: u8,
    /// Refusals that no repeating mends: quota, capacity, expired credentials.
    pub(super) refusals: u8,
    /// There is no room for any machine.
    pub(super) is_full: bool,
}

/// What came of a call, for the checks on order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Create { label: Label, token: ClientToken, at: Instant },
    Found { at: Instant },
}

/// A machine and all that it costs.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) id: HostId,
    pub(super) label: Label,
    fingerprint: Option<Fingerprint>,
    pub(super) expires_at: Timestamp,
    created_at: Timestamp,
    pub(super) address: IpAddr,
    visible_from: Instant,
    pub(super) on: bool,
    /// Deletion was accepted: gone from the listing at the first time, from the bill at the second.
    deleted: Option<(Instant, Instant)>,
    /// Somebody else than `lane` made it.
    pub(super) by_hand: bool,
    pub(super) computer: Computer,
}

impl Machine {
    /// Tells whether it runs or still costs money.
    pub(super) fn is_billed(&self) -> bool {
        self.deleted.is_none_or(|(_, until)| Instant::now() < until)
    }

    fn is_listed(&self) -> bool {
        let now = Instant::now();
        self.visible_from <= now && self.deleted.is_none_or(|(until, _)| now < until)
    }

    /// Tells whether its deletion was accepted.
    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    /// Deletes it at once, as a person would in the cloud's console.
    pub(super) fn delete_by_hand(&mut self) {
        let now = Instant::now();
        self.deleted.get_or_insert((now, now));
    }

    /// Tells whether it can be reached.
    pub(super) fn is_up(&self) -> bool {
        self.on && self.deleted.is_none()
    }
}

/// Looks whether the record on the disk knows that this create is about to be sent.
type Witness = Box<dyn Fn(&ClientToken) -> bool + Send>;

pub(super) struct Ledger {
    pub(super) rng: Rng,
    pub(super) weather: Weather,
    /// How long a fresh host may be hidden: what the entry that is asked promises.
    lag: Duration,
    pub(super) machines: Vec<Machine>,
    calls: Vec<Call>,
    world: Option<World>,
    witness: Option<Witness>,
    /// What must never happen and did.
    pub(super) broken: Vec<String>,
    /// Label of the lane that runs; it may touch no other.
    ours: Option<Label>,
}

/// See the module; clones are the same cloud.
#[derive(Clone)]
pub(super) struct Cloud {
    ledger: Arc<Mutex<Ledger>>,
    pub(super) fate: Fate,
}

impl std::fmt::Debug for Cloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cloud").finish_non_exhaustive()
    }
}

impl Cloud {
    pub(super) fn new(fate: Fate, seed: u64, lag: Duration) -> Self {
        let ledger = Ledger {
            rng: Rng::with_seed(seed),
            weather: Weather::default(),
            lag,
            machines: vec![],
            calls: vec![],
            world: None,
            witness: None,
            broken: vec![],
            ours: None,
        };
        Self { ledger: Arc::new(Mutex::new(ledger)), fate }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whose lane runs, and how to look at what it wrote.
    pub(super) fn watch(&self, world: World, ours: Label, witness: Witness) {
        let mut ledger = self.ledger();
        (ledger.world, ledger.ours, ledger.witness) = (Some(world), Some(ours), Some(witness));
    }

    /// Puts a machine there that `lane` did not ask for.
    pub(super) fn add_by_hand(&self, label: &Label, fingerprint: Option<Fingerprint>) -> HostId {
        let mut ledger = self.ledger();
        let (now, created_at) = (Instant::now(), ledger.now());
        let expires_at = created_at + SignedDuration::from_hours(1000);
        ledger.make(label.clone(), fingerprint, created_at, expires_at, now, true)
    }

    /// Puts a disk there that is left of another lane's host, and is billed until its owner comes.
    pub(super) fn add_leftover(&self, label: &Label) {
        let id = self.add_by_hand(label, None);
        let mut ledger = self.ledger();
        let machine = ledger.machines.iter_mut().find(|machine| machine.id == id).expect("just made");
        let now = Instant::now();
        machine.deleted = Some((now, now + Duration::from_hours(1000)));
    }

    async fn answer_takes(&self) {
        let millis = self.ledger().rng.u64(5..800);
        sleep(Duration::from_millis(millis)).await;
    }
}

impl Ledger {
    fn now(&self) -> Timestamp {
        self.world.as_ref().map_or(Timestamp::UNIX_EPOCH, World::now)
    }

    /// Sets how often a command on a host fails, in percent.
    pub(super) fn set_bad_jobs(&mut self, percent: u8) {
        for machine in &mut self.machines {
            machine.computer.bad_jobs = percent;
        }
    }

    pub(super) fn happens(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }

    fn make(
        &mut self,
        label: Label,
        fingerprint: Option<Fingerprint>,
        created_at: Timestamp,
        expires_at: Timestamp,
        visible_from: Instant,
        by_hand: bool,
    ) -> HostId {
        // Whatever the label's last host still costs, a second one must not add to it; a person's are their own affair.
        if let Some(other) = self.machines.iter().find(|other| other.label == label && other.is_billed())
            && self.ours.as_ref() == Some(&label)
            && !by_hand
        {
            let how = if other.is_deleted() { "deleted and still billed" } else { "alive" };
            self.broken.push(format!("I1: a host of {label} was made while {} is {how}", other.id));
        }
        let number = u8::try_from(self.machines.len()).expect("few machines");
        let id = HostId::new(format!("h{number}"));
        let computer = Computer::new(label.lineage.as_str(), &mut self.rng);
        self.machines.push(Machine {
            id: id.clone(),
            label,
            fingerprint,
            expires_at,
            created_at,
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)),
            visible_from,
            on: true,
            deleted: None,
            by_hand,
            computer,
        });
        id
    }

    pub(super) fn of<'a>(&'a self, label: &'a Label) -> impl Iterator<Item = &'a Machine> {
        self.machines.iter().filter(move |machine| machine.label == *label && machine.is_billed())
    }

    /// Draws the error that a refusing cloud answers with; none has had an effect.
    fn refusal(&mut self, operation: &'static str) -> ProviderError {
        let (provider, message) = ("example", "by the test".to_owned());
        match (self.rng.u8(..5), operation) {
            (0, "create") => ProviderError::Capacity { provider, message },
            (1, "create") => ProviderError::Quota { provider, message },
            (2, "create") => ProviderError::Rejected { provider, operation, message },
            _ => ProviderError::Auth { provider, message },
        }
    }

    fn check_create(&mut self, request: &CreateRequest) {
        if self.witness.as_ref().is_some_and(|knows| !knows(&request.token)) {
            self.broken
                .push(format!("I9: create {} was sent before its intent was on the disk", request.token));
        }
        if self.ours.as_ref() != Some(&request.label) {
            self.broken.push(format!("a create for {}", request.label));
        }
        if request.expires_at <= self.now() || !request.user_data.contains("lane") {
            self.broken.push("I7: a create without an expiry in the future".to_owned());
        }
        let before = self.calls.iter().rev().find_map(|call| match call {
            Call::Create { label, token, at } if *label == request.label => Some((token.clone(), *at)),
            _ => None,
        });
        if let Some((token, at)) = before {
            let looked =
                self.calls.iter().any(|call| matches!(call, Call::Found { at: when } if *when >= at));
            if !looked {
                self.broken.push(format!("I2: create {} follows {token} without a look", request.token));
            }
        }
        self.calls.push(Call::Create {
            label: request.label.clone(),
            token: request.token.clone(),
            at: Instant::now(),
        });
    }
}

fn lost(operation: &'static str) -> ProviderError {
    ProviderError::Ambiguous { provider: "example", operation, message: "the answer was lost".to_owned() }
}

fn busy(operation: &'static str) -> ProviderError {
    ProviderError::Transient { provider: "example", operation, message: "429 too many requests".to_owned() }
}

#[async_trait]
impl Provider for Cloud {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        self.fate.reach(|| format!("create {}", request.label)).map_err(|_| lost("create"))?;
        {
            let mut ledger = self.ledger();
            ledger.check_create(request);
            let weather = ledger.weather;
            if weather.is_full {
                return Err(ProviderError::Capacity {
                    provider: "example",
                    message: "by the test".to_owned(),
                });
            }
            if ledger.happens(weather.refusals) {
                return Err(ledger.refusal("create"));
            }
            if ledger.happens(weather.cloud) {
                match ledger.rng.u8(..3) {
                    0 => return Err(lost("create")),
                    1 => return Err(busy("create")),
                    _ => {}
                }
            }
        }
        let (id, fails) = {
            let mut ledger = self.ledger();
            // What is hidden, is hidden for any part of the lag.
            let hidden = ledger.lag.mul_f64(ledger.rng.f64() * 0.95);
            let created_at = ledger.now();
            let (label, print) = (request.label.clone(), Some(request.fingerprint.clone()));
            let from = Instant::now() + hidden;
            let id = ledger.make(label, print, created_at, request.expires_at, from, false);
            let weather = ledger.weather;
            (id, ledger.happens(weather.cloud))
        };
        self.answer_takes().await;
        self.fate.reach(|| format!("created {id}")).map_err(|_| lost("create"))?;
        if fails { Err(lost("create")) } else { Ok(id) }
    }

    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        self.answer_takes().await;
        let mut ledger = self.ledger();
        let weather = ledger.weather;
        if ledger.happens(weather.cloud) {
            return Err(if ledger.rng.bool() { busy("find") } else { lost("find") });
        }
        if ledger.happens(weather.refusals / 4) {
            return Err(ledger.refusal("find"));
        }
        let shown = |machine: &&Machine| match selector {
            // A cloud's filter may be coarser than a label: here it goes by the lane's name alone.
            Selector::Label(label) => machine.is_listed() && machine.label.lane == label.lane,
            Selector::Owned => machine.is_listed(),
        };
        let hosts = ledger.machines.iter().filter(shown).map(|machine| Host {
            id: machine.id.clone(),
            label: machine.label.clone(),
            status: if machine.on { HostStatus::Running } else { HostStatus::Stopped },
            address: machine.computer.has_address().then_some(machine.address),
            ssh_port: 22,
            sku: Sku::fixed("small"),
            region: Region::fixed("here"),
            fingerprint: machine.fingerprint.clone(),
            created_at: Some(machine.created_at),
            expires_at: Some(machine.expires_at),
        });
        let hosts = hosts.collect();
        ledger.calls.push(Call::Found { at: Instant::now() });
        Ok(hosts)
    }

    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError> {
        self.fate.reach(|| format!("destroy {id}")).map_err(|_| lost("destroy"))?;
        let fails = {
            let mut ledger = self.ledger();
            let weather = ledger.weather;
            if ledger.happens(weather.refusals / 4) {
                return Err(ledger.refusal("destroy"));
            }
            if ledger.happens(weather.cloud) {
                return Err(if ledger.rng.bool() { lost("destroy") } else { busy("destroy") });
            }
            let (listed, billed) = (ledger.rng.u64(..9_000), ledger.rng.u64(..20_000));
            let stays = ledger.happens(weather.cloud / 2);
            let (ours, now) = (ledger.ours.clone(), ledger.now());
            let ended_only = ENDED_ONLY.try_with(|()| ()).is_ok();
            if let Some(machine) = ledger.machines.iter_mut().find(|machine| machine.id == *id) {
                let lives = ended_only && machine.expires_at > now && !machine.is_deleted();
                let foreign = (Some(&machine.label) != ours.as_ref()).then(|| machine.label.clone());
                // Sometimes the cloud says yes and does nothing.
                if !stays {
                    let now = Instant::now();
                    let (listed, billed) = (Duration::from_millis(listed), Duration::from_millis(billed));
                    machine.deleted.get_or_insert((now + listed, now + billed));
                }
                if lives {
                    ledger.broken.push(format!("I7: a sweep of what has ended took {id}, whose lease runs"));
                }
                if let Some(label) = foreign {
                    ledger.broken.push(format!("I6: {id} of {label} was destroyed"));
                }
            }
            ledger.happens(weather.cloud)
        };
        self.answer_takes().await;
        self.fate.reach(|| format!("destroyed {id}")).map_err(|_| lost("destroy"))?;
        if fails { Err(lost("destroy")) } else { Ok(()) }
    }

    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        self.answer_takes().await;
        let mut ledger = self.ledger();
        let weather = ledger.weather;
        if ledger.happens(weather.cloud) {
            return Err(busy("residue"));
        }
        // The disk of a machine is billed as long as the machine is, and longer than it is listed.
        let left = |machine: &&Machine| match selector {
            Selector::Label(label) => {
                machine.label == *label && machine.deleted.is_some() && machine.is_billed()
            }
            Selector::Owned => machine.deleted.is_some() && machine.is_billed(),
        };
        let disk = |machine: &Machine| Residue {
            kind: "disk".to_owned(),
            id: format!("disk-{}", machine.id),
            detail: "50 GB".to_owned(),
            host: machine.id.clone(),
            label: Some(machine.label.clone()),
            created_at: Some(machine.created_at),
            expires_at: Some(machine.expires_at),
        };
        Ok(ledger.machines.iter().filter(left).map(disk).collect())
    }

    async fn set_expiry(&self, id: &HostId, expires_at: Timestamp) -> Result<(), ProviderError> {
        self.fate.reach(|| format!("move the end of {id}")).map_err(|_| lost("set_expiry"))?;
        let fails = {
            let mut ledger = self.ledger();
            let weather = ledger.weather;
            if ledger.happens(weather.cloud) {
                return Err(if ledger.rng.bool() { lost("set_expiry") } else { busy("set_expiry") });
            }
            if let Some(machine) = ledger.machines.iter_mut().find(|machine| machine.id == *id) {
                machine.expires_at = expires_at;
            }
            ledger.happens(weather.cloud)
        };
        self.answer_takes().await;
        self.fate.reach(|| format!("moved the end of {id}")).map_err(|_| lost("set_expiry"))?;
        if fails { Err(lost("set_expiry")) } else { Ok(()) }
    }

    async fn console_log(&self, _id: &HostId) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }
}
