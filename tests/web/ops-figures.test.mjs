import assert from "node:assert/strict";
import test from "node:test";

import {
  KEPT, Lately, backlog, ceiling, count, duration, health, line, shares,
} from "../../gateway/web/ops-figures.js";

function told(second, { accepted = 0, calls = 0, backends = [] } = {}) {
  return {
    server_time: new Date(second * 1000).toISOString(),
    messages: { accepted, pending: 0, acked: accepted, pushed: 0, expired: 0, undeliverable: 0 },
    sessions: { active: 3, background: 1, agent: 1 },
    attempts: calls ? [{ verdict: "accepted", reason: "http_200", count: calls }] : [],
    backends,
  };
}

test("rates are what came between two samples, by the server's clock", () => {
  const lately = new Lately();
  lately.add(told(10, { accepted: 5, calls: 1 }));
  lately.add(told(12, { accepted: 9, calls: 2 }));
  lately.add(told(16, { accepted: 9, calls: 2 }));
  assert.deepEqual(lately.messageRate, [{ at: 12, value: 2 }, { at: 16, value: 0 }]);
  assert.deepEqual(lately.callRate, [{ at: 12, value: 0.5 }, { at: 16, value: 0 }]);
  assert.deepEqual(lately.inChat, [10, 12, 16].map((at) => ({ at, value: 3 })));
  lately.add(told(18, { accepted: 7, calls: 2 })); // of a backup
  assert.deepEqual(lately.messageRate.at(-1), { at: 18, value: 0 });
});

test("how many devices wait is drawn as it was, sample by sample", () => {
  const lately = new Lately();
  assert.equal(lately.newest, null);
  lately.add(told(10, { backends: [{ waiting: 2, calling: 1 }, { waiting: 4, calling: 0 }] }));
  lately.add(told(12));
  assert.deepEqual(lately.backlog, [{ at: 10, value: 7 }, { at: 12, value: 0 }]);
  assert.equal(lately.newest.server_time, told(12).server_time);
});

test("a clock that was set back begins anew, and no rate is without an end", () => {
  for (const second of [9, 10]) {
    const lately = new Lately();
    lately.add(told(10, { accepted: 1 }));
    lately.add(told(second, { accepted: 5 }));
    lately.add(told(12, { accepted: 7 }));
    assert.deepEqual(lately.messageRate, [{ at: 12, value: 2 / (12 - second) }]);
  }
});

test("a gateway that was restarted begins anew: its counts fell", () => {
  const lately = new Lately();
  lately.add(told(10, { accepted: 5, calls: 7 }));
  lately.add(told(12, { accepted: 5, calls: 0 }));
  assert.deepEqual(lately.messageRate, []);
  assert.equal(lately.newest.server_time, told(12).server_time);
});

test("no more is kept than is drawn", () => {
  const lately = new Lately();
  for (let second = 1; second <= KEPT + 9; second += 1) lately.add(told(second));
  assert.deepEqual([lately.backlog.length, lately.newest.server_time], [KEPT, told(KEPT + 9).server_time]);
  assert.equal(KEPT * 2, 5 * 60); // seconds: the page asks every two
});

test("the worst backend decides what is said of all, and every device that is not idle counts", () => {
  const up = { name: "", waiting: 2, calling: 1, state: "up" };
  const down = { name: "qa", waiting: 4, calling: 0, state: "down" };
  assert.equal(health(told(1)), "none");
  assert.equal(health(told(1, { backends: [up] })), "up");
  assert.equal(health(told(1, { backends: [up, down] })), "down");
  assert.equal(health(told(1, { backends: [{ ...up, state: "suspended" }, down] })), "suspended");
  assert.equal(backlog(told(1, { backends: [up, down] })), 7);
});

test("shares add up to all that was accepted, and to nothing where nothing was", () => {
  const some = { accepted: 4, pending: 0, acked: 3, pushed: 1, expired: 0, undeliverable: 0 };
  assert.equal(shares(some).reduce((all, one) => all + one.share, 0), 1);
  assert.deepEqual(shares(some).slice(0, 2), [{ name: "acked", count: 3, share: 0.75 }, { name: "pushed", count: 1, share: 0.25 }]);
  assert.deepEqual(shares(told(1).messages).map((one) => one.share), [0, 0, 0, 0, 0]);
});

test("an axis ends at a round number that is not below what is shown", () => {
  assert.deepEqual([0, 0.3, 1, 1.1, 4, 6, 10, 999].map(ceiling), [1, 0.5, 1, 2, 5, 10, 10, 1000]);
});

test("a line ends at the right edge, and what is older than the axis is not drawn", () => {
  const series = [{ at: 0, value: 9 }, { at: 50, value: 0 }, { at: 100, value: 5 }];
  assert.equal(line(series, 200, 40, 10, 100), "M0.0 4.0L100.0 40.0L200.0 20.0");
  assert.equal(line(series, 200, 40, 10, 50), "M0.0 40.0L200.0 20.0");
  assert.equal(line([{ at: 1, value: 20 }], 200, 40, 10, 50), "M200.0 0.0"); // not above the axis
  assert.equal(line([], 200, 40, 10, 50), "");
});

test("numbers and times are told as people say them", () => {
  assert.deepEqual([0, 0.25, 3, 9.94, 10.4, 12.6, 1234567].map(count), ["0", "0.3", "3", "9.9", "10", "13", "1,234,567"]);
  assert.deepEqual([null, 0.018, 0.5, 1, 2.44, 119, 120, 300, 7200].map(duration),
    ["–", "18 ms", "500 ms", "1.0 s", "2.4 s", "119.0 s", "2 min", "5 min", "120 min"]);
});
