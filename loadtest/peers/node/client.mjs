// nats.js, written as its documentation does. Started by nodejs.py, which makes the stream and the other ends:
// it connects, says "ready", begins when told, and says one line of JSON in the end.
import { connect } from "@nats-io/transport-node";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { read } from "node:fs";
import { createInterface } from "node:readline";

const [workload, text] = process.argv.slice(2);
const given = JSON.parse(text);
const body = new Uint8Array(given.size).fill(120);
const input = createInterface({ input: process.stdin });
const nextLine = () => new Promise((resolve) => input.once("line", resolve));
const say = (word) => process.stdout.write(`${word}\n`);
const told = { seconds: 0, cpu_seconds: 0, problems: [] };

async function measured(act) {
  const began = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  await act();
  const used = process.cpuUsage(cpu);
  told.seconds = Number(process.hrtime.bigint() - began) / 1e9;
  told.cpu_seconds = (used.user + used.system) / 1e6;
}

// A burst, then the loop's turn: publish never waits, and nothing leaves before the loop's turn.
const BURST = 1000;
const turn = () => new Promise((resolve) => setImmediate(resolve));

async function publish(nc) {
  await started();
  await measured(async () => {
    for (let sent = 0; sent < given.count; sent++) {
      nc.publish(given.subject, body);
      if (sent % BURST === BURST - 1) await turn();
    }
    await nc.flush();
  });
}

async function subscribe(nc) {
  let arrived = 0;
  const all = new Promise((resolve) => {
    nc.subscribe(given.subject, { callback: () => ++arrived === given.count && resolve() });
  });
  await nc.flush();
  await started();
  await measured(() => all);
}

async function request(nc) {
  let left = given.count;
  const caller = async () => {
    while (left-- > 0) {
      const reply = await nc.request(given.subject, body, { timeout: given.limit * 1000 });
      if (reply.data.length !== given.size) told.problems.push("a reply of another size");
    }
  };
  await started();
  await measured(() => Promise.all(Array.from({ length: given.depth }, caller)));
}

async function append(nc) {
  const js = jetstream(nc);
  const flying = [];
  let oldest = 0;
  await started();
  await measured(async () => {
    for (let index = 0; index < given.count; index++) {
      if (flying.length - oldest >= given.depth) await flying[oldest++];
      flying.push(js.publish(given.subject, body, { msgID: `${given.token}-${index}`, timeout: given.limit * 1000 }));
    }
    await Promise.all(flying);
  });
}

async function consume(nc) {
  await started();
  await measured(async () => {
    const manager = await jetstreamManager(nc);
    const config = { durable_name: "bench", ack_policy: AckPolicy.Explicit, max_ack_pending: given.max_ack_pending };
    await manager.consumers.add(given.stream, config);
    const consumer = await jetstream(nc).consumers.get(given.stream, "bench");
    const messages = await consumer.consume({ max_messages: 500 });
    let handled = 0;
    for await (const message of messages) {
      message.ack();
      if (++handled === given.count) break;
    }
    told.handled = handled;
    await nc.flush();
  });
}

async function latency(nc) {
  const took = [];
  const all = new Promise((resolve) => {
    const callback = (_, message) => {
      const due = Buffer.from(message.data.buffer, message.data.byteOffset, 8).readBigUInt64LE();
      took.push(Number(process.hrtime.bigint() - due));
      if (took.length === given.count) resolve();
    };
    nc.subscribe(given.rooms, { callback });
  });
  await nc.flush();
  await started();
  await measured(() => all);
  told.took = took;
}

async function pace(nc) {
  const lags = [];
  const beat = Buffer.alloc(8);
  const nextBeat = () => new Promise((resolve) => read(given.fd, beat, 0, 8, null, resolve));
  const stamped = Buffer.alloc(given.size, 120);
  const [first, period] = (await started()).map(BigInt);
  for (let index = 0; index < given.count; index++) {
    const due = first + BigInt(index) * period;
    while (process.hrtime.bigint() < due) await nextBeat();
    lags.push(Number(process.hrtime.bigint() - due));
    stamped.writeBigUInt64LE(due);
    nc.publish(`${given.subject}.${index % given.room_count}`, stamped);
  }
  await nc.flush();
  told.lags = lags;
}

async function started() {
  say("ready");
  return (await nextLine()).split(" ").slice(1);
}

const nc = await connect({ servers: given.server });
await { publish, subscribe, request, append, consume, latency, pace }[workload](nc);
say(JSON.stringify(told));
input.close();
await nc.close();
