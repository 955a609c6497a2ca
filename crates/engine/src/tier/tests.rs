use std::convert::Infallible;
use std::fs::{self, OpenOptions};

use kvist_base::Bytes;

use super::open::open_file;
use super::*;

const BLOCK: usize = 4096;

struct Dir(PathBuf);

impl Dir {
    fn new(what: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kvist-tier-{what}-{}", std::process::id()));
        Self(dir)
    }

    fn options(&self, keeps: bool) -> TierOptions {
        TierOptions {
            dir: self.0.clone(),
            bytes: Bytes(BLOCK as u64 * 8),
            keeps,
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn store(dir: &Dir, keeps: bool) -> TierStore {
    let (file, _) = open_file(&dir.options(keeps), "test").unwrap();
    TierStore::new(file, BLOCK, 8, 2).unwrap()
}

fn put(store: &mut TierStore, slot: Slot, value: u8) -> Result<(), Congested> {
    let fill = |bytes: &mut [u8]| {
        bytes.fill(value);
        Ok::<_, Infallible>(())
    };
    store.put(slot, fill).unwrap()
}

fn get(store: &TierStore, slot: Slot) -> Result<u8, SlotFault> {
    let mut bytes = vec![0; BLOCK];
    store.get(slot, &mut bytes)?;
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    Ok(bytes[0])
}

#[test]
fn a_block_comes_back_before_and_after_it_is_on_the_disk() {
    let dir = Dir::new("roundtrip");
    let mut store = store(&dir, false);
    put(&mut store, 3, 7).unwrap();
    assert_eq!(get(&store, 3).unwrap(), 7);
    store.flush();
    assert!(store.stored_sum(3).is_some());
    assert_eq!(get(&store, 3).unwrap(), 7);
    assert!(matches!(get(&store, 4), Err(SlotFault::Empty { slot: 4 })));
    store.forget(3);
    assert!(matches!(get(&store, 3), Err(SlotFault::Empty { slot: 3 })));
}

#[test]
fn the_last_write_to_a_slot_counts() {
    let dir = Dir::new("rewrite");
    let mut store = store(&dir, false);
    for value in 0..200 {
        store.wait_for_room();
        put(&mut store, 1, value).unwrap();
        assert_eq!(get(&store, 1).unwrap(), value);
    }
    store.flush();
    assert_eq!(get(&store, 1).unwrap(), 199);
    assert!(store.buffer_bytes() <= 2 * BLOCK, "buffers are bounded");
    store.trim();
    assert_eq!(store.buffer_bytes(), 0);
}

#[test]
fn a_full_queue_says_so_and_waits_for_nobody() {
    let dir = Dir::new("congested");
    let mut store = store(&dir, false);
    let mut refused = 0;
    for slot in (0..8).cycle().take(4000) {
        refused += u32::from(put(&mut store, slot, 1).is_err());
    }
    store.flush();
    // Whatever the disk's speed: what was refused is empty, the rest is there.
    for slot in 0..8 {
        assert!(matches!(
            get(&store, slot),
            Ok(1) | Err(SlotFault::Empty { .. })
        ));
    }
    assert!(refused < 4000);
}

#[test]
fn damage_on_the_disk_is_noticed() {
    let dir = Dir::new("damage");
    let mut store = store(&dir, true);
    put(&mut store, 2, 5).unwrap();
    store.flush();
    let path = dir.0.join("test.kv");
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[6], 2 * BLOCK as u64 + 100).unwrap();
    assert!(matches!(
        get(&store, 2),
        Err(SlotFault::Damaged { slot: 2 })
    ));
    file.set_len(10).unwrap();
    assert!(matches!(
        get(&store, 2),
        Err(SlotFault::Unreadable { slot: 2, .. })
    ));
}

#[test]
fn a_failed_write_is_reported_once() {
    let dir = Dir::new("readonly");
    fs::create_dir_all(&dir.0).unwrap();
    let path = dir.0.join("file");
    fs::write(&path, [0]).unwrap();
    // Opened for reading only: every write fails, as on a full disk.
    let file = File::open(&path).unwrap();
    let mut store = TierStore::new(file, BLOCK, 8, 2).unwrap();
    put(&mut store, 6, 1).unwrap();
    store.flush();
    assert_eq!(store.take_lost(), [6]);
    assert!(store.take_lost().is_empty());
    assert!(matches!(get(&store, 6), Err(SlotFault::Empty { slot: 6 })));
}

#[test]
fn a_tier_that_is_not_kept_leaves_no_file_and_a_kept_one_has_one_owner() {
    let dir = Dir::new("files");
    let spill = store(&dir, false);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    drop(spill);
    let kept = store(&dir, true);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
    let second = open_file(&dir.options(true), "test");
    assert_eq!(second.unwrap_err().action, "locked");
    drop(kept);
    assert!(open_file(&dir.options(true), "test").is_ok());
}
