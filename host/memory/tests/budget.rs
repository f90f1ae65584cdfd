//! The budget is never exceeded, and all that was held comes back.

use std::sync::Arc;

use proptest::prelude::*;
use reverie_memory::{Budget, Buffer, Held, Use};

/// What is free for new work and for what has begun, of a budget of this size.
const LIMIT: usize = 1000;
const NEW_WORK: usize = 750;

fn new_work(of: Use) -> bool {
    matches!(of, Use::Bodies | Use::Uploads | Use::Jobs)
}

#[derive(Debug, Clone)]
enum Step {
    Hold(Use, usize),
    Grow(usize, usize),
    Shrink(usize, usize),
    Resize(usize, usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let of = proptest::sample::select(&Use::ALL[..]);
    let (n, bytes) = (0..8usize, 0..400usize);
    prop_oneof![
        (of, bytes.clone()).prop_map(|(of, bytes)| Step::Hold(of, bytes)),
        (n.clone(), bytes.clone()).prop_map(|(n, bytes)| Step::Grow(n, bytes)),
        (n.clone(), bytes.clone()).prop_map(|(n, bytes)| Step::Shrink(n, bytes)),
        (n.clone(), bytes).prop_map(|(n, bytes)| Step::Resize(n, bytes)),
        n.prop_map(Step::Drop),
    ]
}

proptest! {
    #[test]
    fn what_is_granted_adds_up(steps in proptest::collection::vec(step(), 1..80)) {
        let budget = Budget::new(LIMIT);
        let mut held: Vec<(Use, Held)> = Vec::new();
        for step in steps {
            let sums = |held: &[(Use, Held)]| {
                let all: usize = held.iter().map(|(_, held)| held.bytes()).sum();
                let new: usize = held.iter().filter(|(of, _)| new_work(*of)).map(|(_, held)| held.bytes()).sum();
                (all, new)
            };
            let (all, new) = sums(&held);
            let fits = |of: Use, more: usize| all + more <= LIMIT && (!new_work(of) || new + more <= NEW_WORK);
            match step {
                Step::Hold(of, bytes) => match budget.hold(of, bytes) {
                    Ok(granted) => {
                        prop_assert!(fits(of, bytes));
                        held.push((of, granted));
                    }
                    Err(refused) => {
                        prop_assert!(!fits(of, bytes));
                        prop_assert_eq!((refused.of, refused.wanted), (of, bytes));
                    }
                },
                Step::Grow(n, more) => if let Some((of, one)) = held.get_mut(n) {
                    prop_assert_eq!(one.grow(more).is_ok(), fits(*of, more));
                },
                Step::Shrink(n, less) => if let Some((_, one)) = held.get_mut(n) {
                    one.shrink(less);
                },
                Step::Resize(n, bytes) => if let Some((of, one)) = held.get_mut(n) {
                    let fitting = fits(*of, bytes.saturating_sub(one.bytes()));
                    let before = one.bytes();
                    prop_assert_eq!(one.resize(bytes).is_ok(), fitting);
                    prop_assert_eq!(one.bytes(), if fitting { bytes } else { before });
                },
                Step::Drop(n) => if n < held.len() {
                    held.swap_remove(n);
                },
            }
            prop_assert_eq!(budget.used(), sums(&held).0);
            prop_assert_eq!(Use::ALL.iter().map(|of| budget.used_for(*of)).sum::<usize>(), budget.used());
        }
        drop(held);
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn new_work_leaves_room_for_what_has_begun() {
    let budget = Budget::new(LIMIT);
    let _uploads = budget.hold(Use::Uploads, 700).unwrap();
    let refused = budget.hold(Use::Bodies, 51).unwrap_err();
    assert!(!refused.never_fits());
    assert_eq!(refused.free, 50);
    let _picture = budget.hold(Use::Pictures, 300).unwrap();
    assert!(budget.hold(Use::Pictures, 1).is_err() && budget.hold(Use::Bodies, 1).is_err());
    assert!(budget.hold(Use::Bodies, NEW_WORK + 1).unwrap_err().never_fits());
}

#[test]
fn errors_name_the_setting() {
    let budget = Budget::new(64 << 20);
    let _most = budget.hold(Use::Plugins, 60 << 20).unwrap();
    let refused = budget.hold(Use::Pictures, 10 << 20).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the server's memory is in use: 10 MB for pictures are wanted, 4 MB are free of server.memory_mb = 64; try \
         again later"
    );
    let refused = budget.hold(Use::Pictures, 65 << 20).unwrap_err().to_string();
    assert_eq!(refused, "65 MB for pictures are more than server.memory_mb = 64 allows");
}

#[test]
fn bytes_hold_their_memory_to_the_last_copy() {
    let budget = Budget::new(LIMIT);
    let content = budget.hold(Use::Uploads, 4).unwrap().with_bytes(vec![1, 2, 3, 4]);
    let part = content.slice(1..2);
    drop(content);
    assert_eq!((budget.used(), &part[..]), (4, &[2][..]));
    drop(part);
    assert_eq!(budget.used(), 0);

    let kept = budget.hold(Use::Pictures, 9).unwrap().with("picture").map(str::len);
    assert_eq!((*kept, budget.used()), (7, 9));
    drop(kept);
    assert_eq!(budget.used(), 0);
}

#[test]
fn many_threads_never_hold_more_than_there_is() {
    let budget = Budget::new(LIMIT);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let budget: Arc<Budget> = budget.clone();
            scope.spawn(move || {
                for i in 0..20_000 {
                    let held = budget.hold(Use::ALL[(n + i) % Use::ALL.len()], (i * 7) % 600);
                    assert!(budget.used() <= LIMIT);
                    drop(held);
                }
            });
        }
    });
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_buffer_asks_before_it_grows() {
    const MB: usize = 1 << 20;
    let budget = Budget::new(4 * MB);
    let mut buffer = Buffer::new(budget.nothing(Use::Bodies));
    let mut pushed = 0;
    // It would double to more than there is, and takes what is left.
    while buffer.push(&[7; 1000]).is_ok() {
        pushed += 1000;
        assert!((pushed..=3 * MB).contains(&budget.used()), "{} held for {pushed}", budget.used());
    }
    assert_eq!(buffer.len(), pushed);
    assert!(pushed > 3 * MB - 1000);
    drop(buffer);
    assert_eq!(budget.used(), 0);

    let mut buffer = Buffer::new(budget.nothing(Use::Bodies));
    buffer.push(&[1; 1500]).unwrap();
    buffer.push(&[2; 100]).unwrap();
    assert!(budget.used() > 1600);
    let content = buffer.into_bytes();
    assert_eq!((content.len(), content[1499], content[1500], budget.used()), (1600, 1, 2, 1600));
}
