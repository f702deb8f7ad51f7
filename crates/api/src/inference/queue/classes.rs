//! The order of those that wait for one provider. Pure.
//!
//! Classes of priority take turns by weight: of 21 turns, `high` has 16, `normal` 4 and `low` 1 while requests of all three wait, so
//! none starves. In a class keys take turns, and a key's requests come in the order in which they came.

use reveille_domain::{FairLine, KeyId, Line, Priority, Turns};

/// Whose requests wait: those of a class and a key. All without a key count as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    pub class: Priority,
    pub key: Option<KeyId>,
}

/// What a turn of a class costs: a sixteenth of a round, a quarter, or a whole one.
const fn cost(class: Priority) -> u64 {
    match class {
        Priority::High => 1,
        Priority::Normal => 4,
        Priority::Low => 16,
    }
}

/// Requests in the order in which they have their turns.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    turns: Turns<Priority>,
    high: FairLine<Option<KeyId>>,
    normal: FairLine<Option<KeyId>>,
    low: FairLine<Option<KeyId>>,
}

impl Line for Classes {
    type Flow = Flow;

    fn len(&self) -> usize {
        Priority::ALL.map(|class| self.line(class).len()).iter().sum()
    }

    fn push(&mut self, flow: &Flow, ticket: u64) {
        self.turns.enter(&flow.class, cost(flow.class));
        self.line_mut(flow.class).push(&flow.key, ticket);
    }

    fn pop(&mut self) -> Option<u64> {
        let class = *self.turns.first()?;
        let line = self.line_mut(class);
        let ticket = line.pop();
        let again = (!line.is_empty()).then_some(cost(class));
        self.turns.take(again);
        ticket
    }

    fn remove(&mut self, flow: &Flow, ticket: u64) -> bool {
        let line = self.line_mut(flow.class);
        let was_there = line.remove(&flow.key, ticket);
        if line.is_empty() {
            self.turns.leave(&flow.class);
        }
        was_there
    }

    /// About how many: how often the classes have their turns is known only on average.
    fn ahead_of(&self, flow: &Flow, ticket: u64) -> usize {
        let own = self.line(flow.class).ahead_of(&flow.key, ticket);
        let turns = (own as u64 + 1).saturating_mul(cost(flow.class));
        let others = Priority::ALL.into_iter().filter(|class| *class != flow.class);
        let before = others.map(|class| {
            let most = usize::try_from(turns / cost(class)).unwrap_or(usize::MAX);
            self.line(class).len().min(most)
        });
        own + before.sum::<usize>()
    }
}

impl Classes {
    const fn line(&self, class: Priority) -> &FairLine<Option<KeyId>> {
        match class {
            Priority::High => &self.high,
            Priority::Normal => &self.normal,
            Priority::Low => &self.low,
        }
    }

    const fn line_mut(&mut self, class: Priority) -> &mut FairLine<Option<KeyId>> {
        match class {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
            Priority::Low => &mut self.low,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue of requests such as `a:high`, in the order in which they came; their tickets count from 0.
    fn queue(requests: &[&str]) -> (Classes, Vec<Flow>) {
        let mut classes = Classes::default();
        let flow = |request: &&str| {
            let (key, class) = request.split_once(':').expect("a class");
            Flow {
                class: class.parse().expect("a priority"),
                key: (key != "-").then(|| format!("{key:k<8}").parse().expect("a key's id")),
            }
        };
        let flows: Vec<_> = requests.iter().map(flow).collect();
        for (flow, ticket) in flows.iter().zip(0..) {
            classes.push(flow, ticket);
        }
        (classes, flows)
    }

    /// The classes in the order of their turns, by their first letters.
    fn order(mut classes: Classes, flows: &[Flow]) -> String {
        let mut order = String::new();
        while let Some(ticket) = classes.pop() {
            let flow = &flows[usize::try_from(ticket).expect("small")];
            order.extend(flow.class.to_string().chars().take(1));
        }
        order
    }

    #[test]
    fn classes_share_by_weight_and_none_starves() {
        let mut requests = vec!["a:low"; 3];
        requests.extend(["b:normal"; 9]);
        requests.extend(["c:high"; 40]);
        let (classes, flows) = queue(&requests);
        let order = order(classes, &flows);
        for (from, to) in [(0, 21), (21, 42)] {
            let round = &order[from..to];
            let share = ['h', 'n', 'l'].map(|class| round.matches(class).count());
            assert_eq!(share, [16, 4, 1], "{round}");
        }
        assert!(order.starts_with("hhh"), "{order}");
    }

    #[test]
    fn a_key_with_many_requests_and_callers_without_a_key_have_their_share_and_no_more() {
        let mut requests = vec!["a:normal"; 1_000];
        requests.extend(["-:normal"; 1_000]);
        requests.push("b:normal");
        let (mut classes, flows) = queue(&requests);
        assert_eq!(classes.ahead_of(&flows[2_000], 2_000), 2);
        assert_eq!(classes.ahead_of(&flows[999], 999), 999 + 999 + 1);
        assert!(classes.remove(&flows[0], 0) && !classes.remove(&flows[0], 0));
        let first = [classes.pop(), classes.pop(), classes.pop(), classes.pop()];
        assert_eq!(first, [Some(1), Some(1_000), Some(2_000), Some(2)]);
        assert_eq!(classes.len(), 1_996);
    }

    #[test]
    fn one_is_about_as_far_from_its_turn_as_it_says() {
        let mut requests = vec!["a:low"; 2];
        requests.extend(["b:normal"; 10]);
        requests.extend(["c:high"; 10]);
        let (mut classes, flows) = queue(&requests);
        let asked = [0, 2, 11, 12];
        let ahead = asked.map(|ticket: u64| {
            let flow = &flows[usize::try_from(ticket).expect("small")];
            classes.ahead_of(flow, ticket)
        });
        assert_eq!(ahead, [14, 4, 21, 0]);
        let mut turns = [0; 4];
        for turn in 0.. {
            let Some(ticket) = classes.pop() else { break };
            if let Some(at) = asked.iter().position(|asked| *asked == ticket) {
                turns[at] = turn;
            }
        }
        for (ahead, turn) in ahead.into_iter().zip(turns) {
            assert!(ahead.abs_diff(turn) <= 2, "{ahead} and {turn}");
        }
    }
}
