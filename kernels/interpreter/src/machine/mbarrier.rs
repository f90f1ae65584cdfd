//! Barriers in shared memory (PTX ISA: Asynchronous Barrier): a phase ends when as many threads as are expected have arrived, and as
//! many bytes as they said have come.

use std::collections::HashMap;

use super::shared::Moment;

/// What a warp knows of others, which it passes on where it arrives.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// By warp, how often it has told of what it did.
    pub told: Vec<u32>,
    /// By mbarrier, how many of its phases are over.
    pub phases: HashMap<u64, u32>,
}

impl Clock {
    /// The later of both.
    pub fn join(&mut self, other: &Self) {
        self.told.resize(self.told.len().max(other.told.len()), 0);
        self.told.iter_mut().zip(&other.told).for_each(|(mine, other)| *mine = (*mine).max(*other));
        for (mbarrier, phases) in &other.phases {
            self.saw(*mbarrier, *phases);
        }
    }

    pub fn saw(&mut self, mbarrier: u64, phases: u32) {
        let known = self.phases.entry(mbarrier).or_default();
        *known = phases.max(*known);
    }
}

/// A barrier.
struct Mbarrier {
    /// Arrivals of a phase.
    count: u64,
    pending: u64,
    /// Bytes that have been announced and have not come.
    bytes: i64,
    /// Phases that are over.
    phases: u32,
    /// What is known to whoever sees the phase under way end; and to whoever saw the last one end.
    arriving: Clock,
    arrived: Clock,
    /// Who made it, when.
    maker: u32,
    made: Moment,
}

/// Those of a block, by address.
#[derive(Default)]
pub struct Mbarriers {
    barriers: HashMap<u64, Mbarrier>,
    /// Phases of all of them that are over: while this stays, nobody who waits can go on.
    pub events: u64,
}

type Answer<T> = Result<T, String>;

impl Mbarriers {
    pub fn init(&mut self, address: u64, count: u64, thread: u32, now: Moment) -> Answer<()> {
        if !address.is_multiple_of(8) || count == 0 || count >= 1 << 20 {
            return Err(format!("an mbarrier of {count} arrivals at {address}"));
        }
        let barrier = Mbarrier {
            count,
            pending: count,
            bytes: 0,
            phases: 0,
            arriving: Clock::default(),
            arrived: Clock::default(),
            maker: thread,
            made: now,
        };
        match self.barriers.insert(address, barrier) {
            None => Ok(()),
            Some(_) => Err(format!("makes the mbarrier at {address} again")),
        }
    }

    fn find(&mut self, address: u64, thread: u32, now: Moment) -> Answer<&mut Mbarrier> {
        let barrier =
            self.barriers.get_mut(&address).ok_or_else(|| format!("there is no mbarrier at {address}"))?;
        if barrier.maker != thread && barrier.made.block >= now.block {
            return Err(format!(
                "the mbarrier at {address} may not be there yet: no barrier since it was made"
            ));
        }
        Ok(barrier)
    }

    /// An arrival that announces bytes. `clock` is what is done by then, by warp.
    pub fn arrive(
        &mut self,
        address: u64,
        bytes: u64,
        thread: u32,
        now: Moment,
        clock: &Clock,
    ) -> Answer<()> {
        let barrier = self.find(address, thread, now)?;
        if barrier.pending == 0 {
            return Err(format!("one arrival more than the mbarrier at {address} expects"));
        }
        barrier.pending -= 1;
        barrier.bytes += bytes as i64;
        barrier.arriving.join(clock);
        self.settle(address);
        Ok(())
    }

    /// The phase that a copy of `thread` belongs to, which counts towards it.
    pub fn phase(&mut self, address: u64, thread: u32, now: Moment) -> Answer<u32> {
        Ok(self.find(address, thread, now)?.phases)
    }

    /// So many bytes have come.
    pub fn complete(&mut self, address: u64, bytes: usize) {
        if let Some(barrier) = self.barriers.get_mut(&address) {
            barrier.bytes -= bytes as i64;
        }
        self.settle(address);
    }

    fn settle(&mut self, address: u64) {
        let Some(barrier) = self.barriers.get_mut(&address) else { return };
        if barrier.pending == 0 && barrier.bytes == 0 {
            barrier.pending = barrier.count;
            barrier.phases += 1;
            let arriving = std::mem::take(&mut barrier.arriving);
            barrier.arrived.join(&arriving);
            self.events += 1;
        }
    }

    /// Whether the phase of that parity is over, and if so how many are and what was done by then.
    pub fn try_wait(
        &mut self,
        address: u64,
        parity: u64,
        thread: u32,
        now: Moment,
    ) -> Answer<Option<(u32, &Clock)>> {
        let barrier = self.find(address, thread, now)?;
        let over = u64::from(barrier.phases & 1) != parity & 1;
        Ok(over.then_some((barrier.phases, &barrier.arrived)))
    }
}
