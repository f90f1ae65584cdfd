//! 32 threads with a program counter each. Those that are furthest behind go on together, so that threads that a branch
//! parted meet again where their ways do.

use std::collections::VecDeque;

use super::{
    Block, FUEL,
    mbarrier::Clock,
    shared::{Moment, Now, Shared},
    wgmma::Multiplications,
};
use crate::instruction::{Instruction, Op, Operand, Reg, Special, Type};

pub const LANES: usize = 32;

/// Where parameters seem to lie, for those whose address is taken.
pub const PARAMETERS: u64 = 1 << 60;

/// Why a launch ends before its time.
pub struct Stop {
    /// The instruction.
    pub at: usize,
    /// The thread's number in its block.
    pub thread: u32,
    pub what: String,
}

/// What went wrong in a lane.
pub type Fault = (usize, String);

/// The copies of a `cp.async` group: address and bytes.
type Group = Vec<(u64, usize)>;

pub struct Warp {
    number: u32,
    /// Lanes that there are, that have not returned, and that wait at a barrier.
    all: u32,
    alive: u32,
    waiting: u32,
    at: [usize; LANES],
    registers: Vec<[u64; LANES]>,
    /// By register, which lanes have written it.
    written: Vec<u32>,
    /// By lane, the copies that belong to no group yet, and groups that may be in flight.
    open: [Group; LANES],
    groups: [VecDeque<Group>; LANES],
    warp_barriers: u32,
    barriers: u32,
    /// What it knows of others, and how often it has told of itself.
    clock: Clock,
    /// After a wait in vain, how many phases of mbarriers had ended by then.
    spins: Option<u64>,
    /// The named barrier that lanes wait at, and how many threads it wants.
    named: Option<(u64, u64)>,
    pub multiplications: Multiplications,
    pub instructions: u64,
}

/// An instruction and who carries it out.
pub struct Step<'a> {
    pub block: &'a Block<'a>,
    pub instruction: &'a Instruction,
    pub active: u32,
}

/// The lanes of a mask.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 == 1)
}

impl Warp {
    pub fn new(block: &Block, number: u32) -> Self {
        let threads = (block.threads - 32 * number).min(32);
        let all = u32::MAX >> (32 - threads);
        Self {
            number,
            all,
            alive: all,
            waiting: 0,
            at: [0; LANES],
            registers: vec![[0; LANES]; block.kernel.registers.len()],
            written: vec![0; block.kernel.registers.len()],
            open: Default::default(),
            groups: Default::default(),
            warp_barriers: 0,
            barriers: 0,
            clock: Clock { told: vec![0; block.threads.div_ceil(32) as usize], ..Clock::default() },
            spins: None,
            named: None,
            multiplications: Multiplications::new(block.kernel.registers.len()),
            instructions: 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.alive == 0
    }

    /// The thread's number in its block.
    pub fn thread(&self, lane: usize) -> u32 {
        32 * self.number + lane as u32
    }

    pub fn moment(&self) -> Moment {
        let told = self.clock.told[self.number as usize];
        Moment { block: self.barriers, warp: self.warp_barriers, told }
    }

    pub fn now(&self) -> Now<'_> {
        Now { moment: self.moment(), clock: &self.clock }
    }

    /// The instruction that the first lane is at.
    pub fn place(&self) -> usize {
        self.at[0]
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    /// The clock of a warp that tells of all that it did up to now.
    pub fn tell(&mut self) -> Clock {
        self.clock.told[self.number as usize] += 1;
        self.clock.clone()
    }

    /// Hears what others did.
    pub fn hear(&mut self, clock: &Clock) {
        self.clock.join(clock);
    }

    /// Has seen the phases of an mbarrier end, or waits in vain.
    pub fn saw(&mut self, mbarrier: u64, phases: Option<u32>, shared: &Shared) {
        match phases {
            Some(phases) => self.clock.saw(mbarrier, phases),
            None => self.spins = Some(shared.mbarriers.events),
        }
    }

    /// Whether it waits at an mbarrier where nothing has happened since; and where.
    pub fn spins(&self, shared: &Shared) -> Option<(usize, u32)> {
        let lane = lanes(self.alive & !self.waiting).next()?;
        (self.spins == Some(shared.mbarriers.events)).then(|| (self.at[lane], self.thread(lane)))
    }

    /// The named barrier that it waits at: number, threads that it wants, threads that are here.
    pub fn named(&self) -> Option<(u64, u64, u64)> {
        self.named.map(|(name, count)| (name, count, self.waiting.count_ones().into()))
    }

    /// Where a thread waits, and which.
    pub fn waits(&self) -> Option<(usize, u32)> {
        lanes(self.waiting).next().map(|lane| (self.at[lane], self.thread(lane)))
    }

    /// A thread that is not waiting at that barrier.
    pub fn not_at(&self, at: usize) -> Option<u32> {
        lanes(self.all)
            .find(|lane| self.waiting >> lane & 1 == 0 || self.at[*lane] != at)
            .map(|l| self.thread(l))
    }

    pub fn release(&mut self) {
        lanes(self.waiting).for_each(|lane| self.at[lane] += 1);
        self.waiting = 0;
        self.named = None;
    }

    /// Goes on until all threads wait or have returned. `barriers` is how many the block has passed.
    pub fn run(&mut self, block: &Block, shared: &mut Shared, barriers: u32) -> Result<(), Stop> {
        self.barriers = barriers;
        if self.spins(shared).is_some() {
            return Ok(());
        }
        self.spins = None;
        loop {
            if self.spins.is_some() {
                return Ok(());
            }
            let runnable = self.alive & !self.waiting;
            let Some(at) = lanes(runnable).map(|lane| self.at[lane]).min() else { return Ok(()) };
            let here: u32 =
                lanes(runnable).filter(|lane| self.at[*lane] == at).fold(0, |mask, l| mask | 1 << l);
            let stop = |(lane, what): Fault| Stop { at, thread: 32 * self.number + lane as u32, what };
            let Some(instruction) = block.kernel.code.get(at) else {
                return Err(stop((here.trailing_zeros() as usize, "runs past the end of the kernel".into())));
            };
            self.instructions += 1;
            if self.instructions > FUEL {
                let lane = here.trailing_zeros() as usize;
                return Err(stop((lane, format!("{FUEL} instructions: is this loop without an end?"))));
            }
            let number = self.number;
            self.step(block, shared, instruction, at, here).map_err(|(lane, what)| Stop {
                at,
                thread: 32 * number + lane as u32,
                what,
            })?;
        }
    }

    fn step(
        &mut self,
        block: &Block,
        shared: &mut Shared,
        instruction: &Instruction,
        at: usize,
        here: u32,
    ) -> Result<(), Fault> {
        let active = match instruction.guard {
            None => here,
            Some((register, negated)) => {
                let mut active = 0;
                for lane in lanes(here) {
                    if (self.register(register, lane)? & 1 == 1) != negated {
                        active |= 1 << lane;
                    }
                }
                active
            }
        };
        match instruction.op {
            Op::Bra(uniform) => {
                if uniform && active != 0 && active != here {
                    let lane = (here & !active).trailing_zeros() as usize;
                    return Err((lane, "does not take a bra.uni that others take".into()));
                }
                let Some(Operand::Label(target)) = instruction.operands.first() else {
                    return Err((here.trailing_zeros() as usize, "a branch to no label".into()));
                };
                lanes(here).for_each(|l| self.at[l] = if active >> l & 1 == 1 { *target } else { at + 1 });
                return Ok(());
            }
            Op::Ret => {
                self.alive &= !active;
                lanes(here & !active).for_each(|lane| self.at[lane] += 1);
                return Ok(());
            }
            Op::Barrier => {
                self.waiting |= active;
                lanes(here & !active).for_each(|lane| self.at[lane] += 1);
                return Ok(());
            }
            Op::NamedBarrier => {
                let [name, count] = &instruction.operands[..] else { unreachable!("decoded so") };
                let step = Step { block, instruction, active };
                let lane = active.trailing_zeros().min(31) as usize;
                let named = (self.read(&step, name, lane)?, self.read(&step, count, lane)?);
                if !named.1.is_multiple_of(32) || named.1 == 0 || named.0 >= 16 {
                    return Err((lane, format!("barrier {} of {} threads", named.0, named.1)));
                }
                self.together(&step)?;
                (self.waiting, self.named) = (self.waiting | active, Some(named));
                return Ok(());
            }
            Op::WarpBarrier => {
                if active != self.alive {
                    return Err((
                        active.trailing_zeros().min(31) as usize,
                        "bar.warp.sync without all lanes".into(),
                    ));
                }
                self.warp_barriers += 1;
            }
            _ if active != 0 => self.execute(&Step { block, instruction, active }, shared)?,
            _ => {}
        }
        lanes(here).for_each(|lane| self.at[lane] += 1);
        Ok(())
    }

    /// All lanes that live must take part in what a whole warp does together.
    pub fn together(&self, step: &Step) -> Result<(), Fault> {
        match step.active == self.alive {
            true => Ok(()),
            false => {
                let lane = step.active.trailing_zeros() as usize;
                Err((lane, format!("only lanes {:#010x} of {:#010x} are here", step.active, self.alive)))
            }
        }
    }

    fn register(&self, register: Reg, lane: usize) -> Result<u64, Fault> {
        self.multiplications.check_read(register).map_err(|what| (lane, what))?;
        match self.written[register as usize] >> lane & 1 {
            1 => Ok(self.registers[register as usize][lane]),
            _ => Err((lane, "reads a register that it never wrote".into())),
        }
    }

    /// The bits of an operand.
    pub fn read(&self, step: &Step, operand: &Operand, lane: usize) -> Result<u64, Fault> {
        match operand {
            Operand::Reg(register) => self.register(*register, lane),
            Operand::Immediate(bits) => Ok(*bits),
            Operand::Shared(offset) => Ok(*offset),
            Operand::ParamAddress(offset) => Ok(PARAMETERS + *offset as u64),
            Operand::Special(special) => Ok(self.special(step.block, *special, lane).into()),
            Operand::Address(base, offset) => Ok(self.read(step, base, lane)?.wrapping_add_signed(*offset)),
            _ => Err((lane, "an operand that has no value".into())),
        }
    }

    /// Writes to a register, as many bits as it has.
    pub fn write(&mut self, step: &Step, operand: &Operand, lane: usize, bits: u64) -> Result<(), Fault> {
        match operand {
            Operand::Reg(register) => {
                self.multiplications.note_write(*register, self.instructions).map_err(|what| (lane, what))?;
                let kind: Type = step.block.kernel.registers[*register as usize];
                self.registers[*register as usize][lane] = bits & kind.mask();
                self.written[*register as usize] |= 1 << lane;
                Ok(())
            }
            Operand::Sink => Ok(()),
            _ => Err((lane, "a result needs a register".into())),
        }
    }

    fn special(&self, block: &Block, special: Special, lane: usize) -> u32 {
        let [x, y, _] = block.launch.block;
        let thread = self.thread(lane);
        match special {
            Special::Tid(side) => [thread % x, thread / x % y, thread / (x * y)][side],
            Special::Ntid(side) => block.launch.block[side],
            Special::Ctaid(side) => block.index[side],
            Special::Nctaid(side) => block.launch.grid[side],
            Special::Lane => lane as u32,
            Special::Warp => self.number,
        }
    }

    /// The bits of a register of an accumulator: of one that a `wgmma` still writes, its result so far.
    pub fn accumulated(&self, register: Reg, lane: usize) -> Result<u64, Fault> {
        match self.written[register as usize] >> lane & 1 {
            1 => Ok(self.registers[register as usize][lane]),
            _ => Err((lane, "adds to a register that it never wrote".into())),
        }
    }

    /// Writes to one.
    pub fn accumulate(&mut self, register: Reg, lane: usize, bits: u64) {
        self.registers[register as usize][lane] = bits;
        self.written[register as usize] |= 1 << lane;
    }

    /// Puts a copy into the lane's open group.
    pub fn copies(&mut self, lane: usize, address: u64, bytes: usize) {
        self.open[lane].push((address, bytes));
    }

    pub fn commit(&mut self, active: u32) {
        for lane in lanes(active) {
            let group = std::mem::take(&mut self.open[lane]);
            self.groups[lane].push_back(group);
        }
    }

    /// Waits until at most `left` groups are in flight.
    pub fn wait(&mut self, active: u32, left: usize, shared: &mut Shared) {
        let now = self.moment();
        for lane in lanes(active) {
            while self.groups[lane].len() > left {
                for (address, bytes) in self.groups[lane].pop_front().into_iter().flatten() {
                    shared.end_copy(address, bytes, now);
                }
            }
        }
    }
}
