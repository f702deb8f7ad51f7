//! Who is next where many wait: flows take turns, and within a flow the oldest comes first.
//!
//! This is self-clocked fair queueing (Golestani, 1994). A flow is due at the time of the turn given last plus the cost of its own
//! turn, and the earliest is next. So a flow that comes anew waits for one turn of each other one at most, however many wait in
//! those, and a flow saves nothing up while it is away.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Debug,
};

/// An order of tickets that wait, each in its flow.
pub trait Line: Debug + Default {
    /// Whose ticket it is.
    type Flow: Clone + Debug;

    /// How many wait.
    #[must_use]
    fn len(&self) -> usize;

    /// Whether nobody waits.
    #[must_use]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a ticket in. One that was taken out before gets its old place in its flow.
    fn push(&mut self, flow: &Self::Flow, ticket: u64);

    /// Takes out the ticket whose turn it is.
    fn pop(&mut self) -> Option<u64>;

    /// Takes out a ticket that waits no longer. Returns whether it was there.
    fn remove(&mut self, flow: &Self::Flow, ticket: u64) -> bool;

    /// How many have their turn before this ticket, if nobody comes or leaves.
    #[must_use]
    fn ahead_of(&self, flow: &Self::Flow, ticket: u64) -> usize;
}

/// Gives turns to flows. A flow's share is inverse to the cost of its turns.
#[derive(Debug)]
pub struct Turns<F> {
    /// When the turn given last was due.
    now: u64,
    /// The flows that had a turn which was due then.
    just_had_one: BTreeSet<F>,
    /// How many times a flow has been put in.
    count: u64,
    order: BTreeMap<Due, F>,
    due: BTreeMap<F, Due>,
}

/// When a flow's turn is. At one time, those come last that have just had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    again: bool,
    count: u64,
}

impl<F> Default for Turns<F> {
    fn default() -> Self {
        Self {
            now: 0,
            just_had_one: BTreeSet::new(),
            count: 0,
            order: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }
}

impl<F: Clone + Ord> Turns<F> {
    /// Somebody waits in the flow, whose turns cost so much. Nothing changes if somebody did already.
    pub fn enter(&mut self, flow: &F, cost: u64) {
        if !self.due.contains_key(flow) {
            self.put(flow, cost);
        }
    }

    /// Nobody waits in the flow any more.
    pub fn leave(&mut self, flow: &F) {
        if let Some(due) = self.due.remove(flow) {
            self.order.remove(&due);
        }
    }

    /// Whose turn it is.
    #[must_use]
    pub fn first(&self) -> Option<&F> {
        self.order.values().next()
    }

    /// The first flow has its turn. `again`: what its next one costs, if somebody still waits in it.
    pub fn take(&mut self, again: Option<u64>) {
        let Some((due, flow)) = self.order.pop_first() else {
            return;
        };
        self.due.remove(&flow);
        if due.at > self.now {
            self.now = due.at;
            self.just_had_one.clear();
        }
        self.just_had_one.insert(flow.clone());
        if let Some(cost) = again {
            self.put(&flow, cost);
        }
    }

    /// Whether `one` has its next turn before `other`.
    fn is_before(&self, one: &F, other: &F) -> bool {
        self.due.get(one) < self.due.get(other)
    }

    fn put(&mut self, flow: &F, cost: u64) {
        self.count += 1;
        let due = Due {
            at: self.now.saturating_add(cost),
            again: self.just_had_one.contains(flow),
            count: self.count,
        };
        self.order.insert(due, flow.clone());
        self.due.insert(flow.clone(), due);
    }
}

/// Tickets of several flows, each of which has the same share. In a flow, the lowest ticket is first.
#[derive(Debug)]
pub struct FairLine<F> {
    turns: Turns<F>,
    waiting: BTreeMap<F, VecDeque<u64>>,
    len: usize,
}

impl<F> Default for FairLine<F> {
    fn default() -> Self {
        Self {
            turns: Turns::default(),
            waiting: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<F: Clone + Debug + Ord> Line for FairLine<F> {
    type Flow = F;

    fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, flow: &F, ticket: u64) {
        self.turns.enter(flow, 1);
        let waiting = self.waiting.entry(flow.clone()).or_default();
        let at = waiting.partition_point(|other| *other < ticket);
        waiting.insert(at, ticket);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<u64> {
        let flow = self.turns.first()?.clone();
        let waiting = self.waiting.get_mut(&flow)?;
        let ticket = waiting.pop_front()?;
        let is_last = waiting.is_empty();
        if is_last {
            self.waiting.remove(&flow);
        }
        self.turns.take((!is_last).then_some(1));
        self.len -= 1;
        Some(ticket)
    }

    fn remove(&mut self, flow: &F, ticket: u64) -> bool {
        let Some(waiting) = self.waiting.get_mut(flow) else {
            return false;
        };
        let Ok(at) = waiting.binary_search(&ticket) else {
            return false;
        };
        waiting.remove(at);
        if waiting.is_empty() {
            self.waiting.remove(flow);
            self.turns.leave(flow);
        }
        self.len -= 1;
        true
    }

    fn ahead_of(&self, flow: &F, ticket: u64) -> usize {
        let own = self.waiting.get(flow);
        let rank = own.map_or(0, |own| own.partition_point(|other| *other < ticket));
        let others = self.waiting.iter().filter(|(other, _)| *other != flow);
        let before = others.map(|(other, waiting)| {
            let turns = rank + usize::from(self.turns.is_before(other, flow));
            waiting.len().min(turns)
        });
        rank + before.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each row: who waits from the beginning, who comes after how many turns, and the order in which they have their turns.
    const TABLE: &str = "
        aaaa              |     -> aaaa
        aaaabbbb          |     -> abababab
        aaaaab            |     -> abaaaa
        aaaaa             | 2b  -> aabaaa
        aaaaa             | 2b 3b 4b -> aabababa
        aaaaa             | 2b 2c -> aabcaaa
        aaabbb            | 2c  -> abcabab
    ";

    #[test]
    fn flows_take_turns_and_who_comes_late_waits_for_one_turn_of_each_other() {
        for row in TABLE.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let (setting, order) = row.split_once("->").expect("an order");
            let (first, late) = setting.split_once('|').expect("a bar");
            let (mut line, mut flows) = (FairLine::default(), vec![]);
            let mut push = |line: &mut FairLine<char>, flow: char| {
                line.push(&flow, flows.len() as u64);
                flows.push(flow);
            };
            for flow in first.trim().chars() {
                push(&mut line, flow);
            }
            let mut late: VecDeque<_> = late
                .split_whitespace()
                .filter_map(|entry| {
                    let (after, flow) = entry.split_at(entry.len() - 1);
                    Some((after.parse::<usize>().ok()?, flow.chars().next()?))
                })
                .collect();
            let mut taken = vec![];
            loop {
                while late.front().is_some_and(|(after, _)| *after <= taken.len()) {
                    let (_, flow) = late.pop_front().expect("one");
                    push(&mut line, flow);
                }
                let Some(ticket) = line.pop() else { break };
                taken.push(ticket);
            }
            let order_of = taken
                .iter()
                .map(|ticket| flows[usize::try_from(*ticket).expect("small")]);
            assert_eq!(order_of.collect::<String>(), order.trim(), "{row}");
            for flow in ['a', 'b', 'c'] {
                let own: Vec<_> = taken
                    .iter()
                    .filter(|ticket| flows[usize::try_from(**ticket).expect("small")] == flow)
                    .collect();
                assert!(own.is_sorted(), "first come, first served: {row}");
            }
        }
    }

    #[test]
    fn turns_that_cost_more_come_less_often() {
        let mut turns = Turns::default();
        let costs = BTreeMap::from([("high", 1), ("normal", 4), ("low", 16)]);
        for (flow, cost) in &costs {
            turns.enter(flow, *cost);
        }
        let mut taken = BTreeMap::<_, u32>::new();
        for _ in 0..210 {
            let flow = *turns.first().expect("one");
            *taken.entry(flow).or_default() += 1;
            turns.take(Some(costs[flow]));
        }
        assert_eq!(
            taken,
            BTreeMap::from([("high", 160), ("normal", 40), ("low", 10)])
        );
    }

    #[test]
    fn a_ticket_that_comes_back_has_its_old_place() {
        let mut line = FairLine::default();
        for ticket in 0..3 {
            line.push(&'a', ticket);
        }
        assert_eq!(line.pop(), Some(0));
        line.push(&'a', 0);
        assert_eq!(line.ahead_of(&'a', 2), 2);
        assert_eq!([line.pop(), line.pop(), line.pop()], [Some(0), Some(1), Some(2)]);
        assert!(line.is_empty() && line.pop().is_none());
    }

    proptest! {
        /// Whoever leaves leaves no trace, and how many are ahead of a ticket is how many turns it waits.
        #[test]
        fn as_many_are_ahead_of_a_ticket_as_have_their_turns_before_it(
            pushed in proptest::collection::vec(0..4u8, 1..40),
            leaving in proptest::collection::vec(any::<bool>(), 40),
            turns in 0..10usize,
        ) {
            let mut line = FairLine::default();
            for (ticket, flow) in pushed.iter().enumerate() {
                line.push(flow, ticket as u64);
            }
            for _ in 0..turns {
                line.pop();
            }
            let (leaving, left): (Vec<_>, Vec<_>) = pushed
                .iter()
                .zip(0..)
                .zip(leaving)
                .partition(|(_, leaves)| *leaves);
            for ((flow, ticket), _) in leaving {
                line.remove(flow, ticket);
            }
            let ahead: BTreeMap<_, _> = left
                .iter()
                .map(|((flow, ticket), _)| (*ticket, line.ahead_of(flow, *ticket)))
                .collect();
            let len = line.len();
            let mut order = vec![];
            while let Some(ticket) = line.pop() {
                prop_assert_eq!(ahead.get(&ticket), Some(&order.len()));
                order.push(ticket);
            }
            prop_assert_eq!(order.len(), len);
        }
    }
}
