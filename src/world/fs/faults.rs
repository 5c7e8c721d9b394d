//! What a test may do to this thread's disk: watch its changes, refuse one, or end the process in the middle of one.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// A change that is about to reach the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change<'a> {
    /// A file comes into being, empty.
    Create(&'a Path),
    /// A file grows.
    Append(&'a Path, &'a [u8]),
    /// A file is cut to a length.
    Cut(&'a Path, u64),
    /// A file's bytes are made durable.
    Sync(&'a Path),
    /// A file takes another name, in place of what had it.
    Rename(&'a Path, &'a Path),
    /// A file goes.
    Remove(&'a Path),
    /// A folder's entries are made durable.
    SyncDir(&'a Path),
}

/// Decides about each change of the thread that it is set for.
pub(crate) trait Disk {
    /// Lets the change happen, or refuses it; a torn write is made here before it is refused.
    fn change(&mut self, change: Change<'_>) -> io::Result<()>;
}

thread_local! {
    static DISK: RefCell<Option<Rc<RefCell<dyn Disk>>>> = const { RefCell::new(None) };
}

/// Takes the disk away again on drop.
#[derive(Debug)]
pub(crate) struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        DISK.with_borrow_mut(Option::take);
    }
}

/// Puts a disk under this thread until the guard goes.
pub(crate) fn set(disk: Rc<RefCell<dyn Disk>>) -> Guard {
    DISK.with_borrow_mut(|slot| *slot = Some(disk));
    Guard(())
}

pub(super) fn ask(change: Change<'_>) -> io::Result<()> {
    let disk = DISK.with_borrow(Option::clone);
    disk.map_or(Ok(()), |disk| disk.borrow_mut().change(change))
}
