//! What a sweep takes of all that carries our labels, and how: under the lane's lock, journaled, with a receipt.
//!
//! Prints nothing and asks nobody.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::cloud::{Cloud, EndedOnly, Known, check_scope};
use super::receipt::{Object, Receipt};
use super::steps::StepError;
use crate::plan::Work;
use crate::provider::{Host, HostId, Label, Residue, Selector};
use crate::state::{JournalEvent, LaneDir, Record, SharedSession, StateError};

/// Which of what is found goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// What has an ended lease, and what was left long ago by a host that is gone.
    Expired,
    /// Everything of the lanes of this name, whoever made them.
    Lane(String),
    /// Everything that carries our labels.
    All,
}

/// What is one thing to keep or to take down.
#[derive(Debug, Clone)]
pub enum What {
    /// A lane's hosts; more than one is a fault that a sweep mends.
    Lane {
        /// Whose they are.
        label: Label,
        /// At least one.
        hosts: Vec<Host>,
    },
    /// What is left of a host that is gone.
    Orphan {
        /// The id of that host.
        host: HostId,
        /// At least one.
        parts: Vec<Residue>,
    },
}

/// Something of ours in a cloud.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it is.
    pub what: What,
    /// The lane of that lineage, if it has state here.
    pub recorded: Option<(LaneDir, Box<Record>)>,
}

/// The lanes that have state here, by the label of their hosts.
pub type Lanes = BTreeMap<String, (LaneDir, Box<Record>)>;

/// Reads the records of these lanes; an error is of one lane and keeps no other out of sight.
pub fn lanes(dirs: Vec<LaneDir>) -> (Lanes, Vec<StateError>) {
    let (mut lanes, mut errors) = (Lanes::new(), Vec::new());
    for dir in dirs {
        match dir.load() {
            Ok(Some(record)) => drop(lanes.insert(record.label().to_string(), (dir, Box::new(record)))),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    (lanes, errors)
}

/// Asks a cloud for all that carries our labels.
pub async fn look(cloud: &Cloud<'_>, lanes: &Lanes) -> Result<Vec<Found>, StepError> {
    // In this order: a host that is made in between is listed as a host, and its parts are not taken for remains.
    let residue = cloud.residue(&Selector::Owned).await?;
    let hosts = cloud.find_owned().await?;
    let mut by_label: BTreeMap<Label, Vec<Host>> = BTreeMap::new();
    let mut orphans: BTreeMap<HostId, Vec<Residue>> = BTreeMap::new();
    for part in residue.into_iter().filter(|part| hosts.iter().all(|host| host.id != part.host)) {
        orphans.entry(part.host.clone()).or_default().push(part);
    }
    for host in hosts {
        by_label.entry(host.label.clone()).or_default().push(host);
    }
    // A name tells only the end of a lineage.
    let recorded = |label: &Label| lanes.get(&label.to_string()).cloned();
    let lanes = by_label.into_iter().map(|(label, hosts)| Found {
        recorded: recorded(&label).filter(|(_, record)| record.lineage == label.lineage),
        what: What::Lane { label, hosts },
    });
    let orphans = orphans.into_iter().map(|(host, parts)| Found {
        recorded: parts.iter().find_map(|part| part.label.as_ref()).and_then(recorded),
        what: What::Orphan { host, parts },
    });
    Ok(lanes.chain(orphans).collect())
}

impl Found {
    /// Returns the lane's name, as far as the cloud's labels or names tell it.
    pub fn lane(&self) -> Option<&str> {
        match &self.what {
            What::Lane { label, .. } => Some(&label.lane),
            What::Orphan { parts, .. } => {
                parts.iter().find_map(|part| part.label.as_ref()).map(|label| label.lane.as_str())
            }
        }
    }

    /// Returns when the last of its leases ends; `None` where no label says so.
    pub fn expires_at(&self) -> Option<Timestamp> {
        match &self.what {
            What::Lane { hosts, .. } => {
                let recorded = self.recorded.as_ref().and_then(|(_, record)| record.host.as_ref());
                let recorded =
                    recorded.filter(|known| hosts.iter().any(|host| Some(&host.id) == known.id.as_ref()));
                let ends = hosts.iter().map(|host| host.expires_at).collect::<Option<Vec<_>>>()?;
                ends.into_iter().chain(recorded.map(|host| host.expires_at)).max()
            }
            What::Orphan { parts, .. } => parts.iter().filter_map(|part| part.expires_at).max(),
        }
    }

    /// Returns when the oldest part was made.
    pub fn created_at(&self) -> Option<Timestamp> {
        match &self.what {
            What::Lane { hosts, .. } => hosts.iter().filter_map(|host| host.created_at).min(),
            What::Orphan { parts, .. } => parts.iter().filter_map(|part| part.created_at).min(),
        }
    }

    /// Names it for people.
    pub fn name(&self) -> String {
        match &self.what {
            What::Lane { label, .. } => label.to_string(),
            What::Orphan { host, .. } => format!("what is left of {host}"),
        }
    }
}

/// Whose record a sweep goes by.
fn ended_only(began: Timestamp, record: Option<&Record>) -> EndedOnly {
    let recorded = record.and_then(|record| record.host.as_ref());
    EndedOnly { began, recorded: recorded.and_then(|host| Some((host.id.clone()?, host.expires_at))) }
}

impl Choice {
    /// Tells whether something that was found is to go; of a lane's hosts, whether one of them is.
    pub fn selects(&self, found: &Found, now: Timestamp) -> bool {
        match self {
            Self::All => true,
            Self::Lane(name) => found.lane() == Some(name),
            Self::Expired => {
                let ended = ended_only(now, found.recorded.as_ref().map(|(_, record)| &**record));
                match &found.what {
                    What::Lane { hosts, .. } => hosts.iter().any(|host| !ended.spares(host, now)),
                    What::Orphan { host, parts } => !ended.spares_rest(host, parts, now),
                }
            }
        }
    }
}

/// Why something is still there.
#[derive(Debug)]
pub enum Left {
    /// A `lane` works on it.
    Locked(String),
    /// It may still cost money.
    MayCost(String),
}

/// How a sweep takes one thing down.
#[derive(Debug)]
pub struct Sweep<'a> {
    /// Where it is.
    pub cloud: Cloud<'a>,
    /// Why it goes.
    pub choice: &'a Choice,
    /// When the sweep looked for what there is.
    pub began: Timestamp,
    /// Folder for receipts of what has no state here.
    pub receipts: &'a Path,
    /// How long taking down one thing may take.
    pub limit: Duration,
}

impl Sweep<'_> {
    /// Takes one thing down; `None` when it has gone by itself, or may stay by now.
    pub async fn take_down(&self, found: &Found) -> Result<Option<Receipt>, Left> {
        // State that knows this lineage hears of it, and its lock keeps a running `lane` out of the way.
        let session = match &found.recorded {
            None => None,
            Some((dir, _)) => Some(dir.open(self.cloud.world, "sweep").map_err(|error| match error {
                StateError::Locked { .. } => Left::Locked(error.to_string()),
                other => Left::MayCost(other.to_string()),
            })?),
        };
        let record = session.as_ref().map(SharedSession::record);
        let ended = ended_only(self.began, record.as_ref());
        let spare = (*self.choice == Choice::Expired).then_some(&ended);
        let may_cost = |error: StepError| Left::MayCost(error.to_string());
        let receipt = match &found.what {
            What::Orphan { host, .. } => {
                // A create in doubt is of a host that nobody can name yet.
                let making = record
                    .as_ref()
                    .and_then(|record| record.host.as_ref())
                    .is_some_and(|host| host.id.is_none() && host.expires_at > self.cloud.world.now());
                if spare.is_some() && making {
                    return Ok(None);
                }
                let receipt = self.cloud.clear(host, self.limit, spare).await.map_err(may_cost)?;
                receipt.inspect(|receipt| self.file(receipt, session.as_ref()))
            }
            What::Lane { label, .. } => self.hosts(label, session.as_ref(), spare).await?,
        };
        Ok(receipt)
    }

    async fn hosts(
        &self,
        label: &Label,
        session: Option<&SharedSession>,
        spare: Option<&EndedOnly>,
    ) -> Result<Option<Receipt>, Left> {
        let may_cost = |error: StepError| Left::MayCost(error.to_string());
        let unrecorded = |error: StateError| Left::MayCost(error.to_string());
        // Time has passed since the listing, and other sweeps and applies do not wait for this one.
        let hosts = self.cloud.find(label).await.map_err(may_cost)?;
        let now = self.cloud.world.now();
        let stays = |host: &Host| spare.is_some_and(|spare| spare.spares(host, now));
        if !hosts.is_empty() && hosts.iter().all(stays) {
            return Ok(None);
        }
        // What is recorded of a host made elsewhere, or of one that stays, does not end with this one.
        let goes = |id: &HostId| hosts.iter().any(|host| host.id == *id && !stays(host));
        let recorded = session.and_then(|session| session.record().host);
        let lane = session.map_or("", |session| session.dir().lane());
        let is_here = check_scope(self.cloud.provider, recorded.as_ref(), lane).await.is_ok();
        let journal = session.filter(|_| is_here).filter(|session| {
            session.record().host.is_none_or(|host| {
                let ends = match &host.id {
                    Some(id) => goes(id),
                    None => spare.is_none() || host.expires_at <= now,
                };
                host.provider == self.cloud.entry.name && ends
            })
        });
        let record = journal.map(SharedSession::record);
        let doubted = record.as_ref().is_some_and(|record| record.in_doubt.contains_key(&Work::Destroy.id()));
        let known = record.and_then(|record| record.host).map(|host| Known::of(&host));
        let id = known.as_ref().and_then(|host| host.id.clone());
        if let Some(session) = journal {
            session.append(JournalEvent::DestroyIntended { id: id.clone() }).map_err(unrecorded)?;
        }
        let (receipt, spared) =
            self.cloud.take_down_unless(label, known.as_ref(), self.limit, spare).await.map_err(may_cost)?;
        let nothing = receipt.destroyed.is_empty() && spared;
        if !nothing {
            self.file(&receipt, session);
        }
        if let Some(session) = journal {
            let gone = id.is_some_and(|id| receipt.destroyed.contains(&Object::of_host(&id)));
            let event = if gone || !spared {
                Some(JournalEvent::HostGone {})
            } else {
                // Its lease was extended in the meantime, and nothing was sent: no later run has to doubt it.
                (!doubted).then(|| JournalEvent::Forgotten { steps: vec![Work::Destroy.id()] })
            };
            let journaled = event.map_or(Ok(()), |event| session.append(event));
            journaled
                .and_then(|()| session.checkpoint())
                .map_err(|error| Left::MayCost(format!("it is gone, but not recorded as such: {error}")))?;
        }
        Ok((!nothing).then_some(receipt))
    }

    /// What is gone is gone whether or not its receipt can be kept.
    fn file(&self, receipt: &Receipt, session: Option<&SharedSession>) {
        let folder = match session {
            Some(session) => session.dir().logs(),
            None => self.receipts.to_owned(),
        };
        (self.cloud.note)(match receipt.file(&folder) {
            Ok(filed) => format!("receipt: {}, sha256 {}", filed.path.display(), filed.sha256),
            Err(error) => format!("no receipt in {}: {error}", folder.display()),
        });
    }
}
