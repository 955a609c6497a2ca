//! Priorities, tenants and promises.

use super::*;

fn of(id: u64, priority: i32, tenant: u64) -> NewSequence {
    NewSequence {
        priority,
        tenant,
        ..sequence(id, kind(id), 6)
    }
}

/// Ids in the order in which they are let in, one at a time.
fn admissions(scheduler: &mut Scheduler) -> Vec<u64> {
    let mut order = Vec::new();
    while scheduler.has_work() {
        let plan = scheduler.schedule();
        let seq = plan.chunks()[0].seq;
        if order.last() != Some(&seq.0) {
            order.push(seq.0);
        }
        commit(scheduler, plan);
    }
    order
}

#[test]
fn a_lower_number_is_served_first_and_gives_way_last() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(6),
        ..config()
    });
    for (id, priority) in [(0, 5), (1, 0), (2, -3)] {
        scheduler.admit(of(id, priority, 0)).unwrap();
    }
    assert_eq!(step(&mut scheduler), [(2, 0, 6), (1, 0, 6), (0, 0, 6)]);
    step(&mut scheduler);
    step(&mut scheduler);
    let plan = scheduler.schedule();
    assert_eq!(plan.preempted(), [SeqId(0)], "the first to arrive");
    assert_eq!(spans(&plan), [(2, 8, 9), (1, 8, 9)]);
    commit(&mut scheduler, plan);
    scheduler.admit(of(3, -4, 0)).unwrap();
    scheduler.cancel(SeqId(1));
    assert_eq!(step(&mut scheduler), [(2, 9, 10), (3, 0, 6)]);
}

#[test]
fn the_tenant_served_least_goes_next() {
    let mut scheduler = scheduler(SchedulerConfig {
        running_max: 1,
        fairness: Fairness::Tenants,
        ..config()
    });
    let short = |id, tenant| NewSequence {
        output_max: Tokens(1),
        ..of(id, 0, tenant)
    };
    for (id, tenant) in [(0, 7), (1, 7), (2, 7), (3, 8), (4, 8)] {
        scheduler.admit(short(id, tenant)).unwrap();
    }
    assert_eq!(admissions(&mut scheduler), [0, 3, 1, 4, 2]);
}

#[test]
fn priority_comes_before_fairness() {
    let mut scheduler = scheduler(SchedulerConfig {
        running_max: 1,
        fairness: Fairness::Tenants,
        ..config()
    });
    for (id, priority, tenant) in [(0, 0, 7), (1, 1, 8), (2, 0, 7)] {
        scheduler.admit(of(id, priority, tenant)).unwrap();
    }
    assert_eq!(admissions(&mut scheduler), [0, 2, 1]);
}

#[test]
fn a_tenant_who_was_away_does_not_catch_up() {
    let mut scheduler = scheduler(SchedulerConfig {
        running_max: 1,
        fairness: Fairness::Tenants,
        ..config()
    });
    for id in 0..3 {
        scheduler.admit(of(id, 0, 7)).unwrap();
    }
    while scheduler.sequence(SeqId(0)).is_some() {
        step(&mut scheduler);
    }
    // 8 comes when 7 has been served 22 tokens, and is treated as if it had been as well.
    for id in 3..6 {
        scheduler.admit(of(id, 0, 8)).unwrap();
    }
    assert_eq!(admissions(&mut scheduler), [1, 3, 2, 4, 5]);
}

#[test]
fn a_tenant_pays_once_for_what_is_computed_twice() {
    let mut scheduler = scheduler(SchedulerConfig {
        fairness: Fairness::Tenants,
        prefix_caching: false,
        ..config()
    });
    scheduler.admit(of(0, 0, 7)).unwrap();
    step(&mut scheduler);
    step(&mut scheduler);
    assert_eq!(
        scheduler.tenants.served(7),
        8,
        "a prompt of 6, and 2 tokens"
    );
    assert!(scheduler.preempt(SeqId(0)));
    step(&mut scheduler);
    assert_eq!(scheduler.tenants.served(7), 9);
}

#[test]
fn a_guarantee_lets_in_only_what_fits_at_its_longest() {
    let mut scheduler = scheduler(SchedulerConfig {
        blocks_limit: Blocks(7),
        admission: Admission::Guaranteed,
        watermark: Blocks(6),
        ..config()
    });
    // Each has 9 slots at its longest: three blocks. Known are two.
    for id in 0..3 {
        let sequence = NewSequence {
            output_max: Tokens(4),
            ..of(id, 0, 0)
        };
        scheduler.admit(sequence).unwrap();
    }
    assert_eq!(
        step(&mut scheduler),
        [(0, 0, 6), (1, 0, 6)],
        "2 would fit for now"
    );
    while scheduler.has_work() {
        step(&mut scheduler);
    }
    assert_eq!(scheduler.totals().preemptions, 0);
}

#[test]
fn a_tenant_does_not_pay_for_hits() {
    let mut scheduler = scheduler(SchedulerConfig {
        running_max: 1,
        fairness: Fairness::Tenants,
        ..config()
    });
    for (id, tenant, output_max) in [(0, 7, 1), (1, 8, 2), (2, 7, 1)] {
        let new = NewSequence {
            tenant,
            output_max: Tokens(output_max),
            ..sequence(id, 0, 9)
        };
        scheduler.admit(new).unwrap();
    }
    assert_eq!(step(&mut scheduler), [(0, 0, 9)]);
    assert_eq!(scheduler.tenants.served(7), 10);
    assert_eq!(step(&mut scheduler), [(1, 8, 9)]);
    assert_eq!(scheduler.tenants.served(8), 2, "a token of each kind");
}
