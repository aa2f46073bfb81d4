"use strict";
// A client of a relay policy server in plain Node, written from proto/rpl/v1/relay.proto alone.
//
//     npm ci
//     node client.js ADDRESS[,ADDRESS...] ELEMENT[,ELEMENT...] [STEPS]
//
// RPL_CA names the file of a certificate authority (and switches TLS on), RPL_TOKEN_FILE that of a token. Prints each
// step as a line of JSON. Exits with 1 if the server refuses something, with 4 if no server answers.

const fs = require("node:fs");
const path = require("node:path");
const { setTimeout: sleep } = require("node:timers/promises");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTO = path.join(__dirname, "..", "..", "proto", "rpl", "v1", "relay.proto");
const SILENCE_MS = 5000; // after which a server that does not answer counts as gone
const PATIENCE_MS = 30000; // for which a lost run looks for a server

const definition = loader.loadSync(PROTO, { keepCase: true, longs: String, enums: Number, defaults: true, oneofs: true });
const { RelayPolicy } = grpc.loadPackageDefinition(definition).rpl.v1;

/** In place of this, your robot. This one stands at once where it is told to, as if its state began with its joints. */
class Robot {
  constructor(spec) {
    this.state = spec.state.low.map((low, dim) => Math.fround((low + spec.state.high[dim]) / 2));
  }

  observe() {
    return [...this.state];
  }

  /** Follow a target for one period. A real robot comes to rest by itself if none comes. */
  apply(target) {
    this.state.splice(0, target.length, ...target);
  }
}

/** What the server will not do: `reason` is stable, the message is for people. */
class Refused extends Error {}

/** No server answers, for now. */
class Lost extends Error {}

/** One run of one robot, which goes on at the next address if its stream breaks. */
class Run {
  constructor(addresses, robot) {
    this.addresses = addresses;
    this.robot = robot;
    this.metadata = new grpc.Metadata();
    if (process.env.RPL_TOKEN_FILE) {
      this.metadata.set("authorization", `Bearer ${fs.readFileSync(process.env.RPL_TOKEN_FILE, "utf8").trim()}`);
    }
    this.resume = null; // where another stream would go on; null before the first action
  }

  /** The policy's spec. */
  describe() {
    return this.persist(() => {
      this.connect();
      return new Promise((resolve, reject) => {
        const deadline = Date.now() + SILENCE_MS;
        this.client.Describe({}, this.metadata, { deadline }, (error, reply) => {
          if (error) reject(fault(error));
          else resolve(reply.spec);
        });
      });
    });
  }

  /** Begin the run. The goal that the server made of the elements is the run's from here on. */
  async start(goal, state) {
    const started = await this.persist(() => this.ask({ start: { goal, state } }));
    this.goal = { resolved: started.goal };
    this.metadata.set("rpl-digest", started.digest); // only the same bundle may go on with this run
    this.resume = { step: 0, subgoal: [], age: 0, upcoming: [], override: 0, lasts: 0 };
    return started;
  }

  /** The action for the next step, in a state that was measured now. */
  async step(state) {
    const { step } = this.resume;
    const observed_ns = process.hrtime.bigint().toString();
    const action = await this.persist(() => this.ask({ observation: { step, state, observed_ns } }));
    const before = this.resume;
    this.goal = action.goal ? { resolved: action.goal } : this.goal; // an operator may send another
    this.resume = {
      step: step + 1,
      subgoal: action.subgoal.length ? action.subgoal : before.subgoal, // sent only when it is new
      age: action.age + 1,
      upcoming: action.upcoming.length || action.replanned ? action.upcoming : before.upcoming,
      override: [1, 4].includes(action.override) ? 1 : 0, // a pin lasts, all others end with their step
      lasts: action.replanned ? (action.origin?.lasts ?? 0) : before.lasts,
    };
    return action;
  }

  finish() {
    return this.persist(() => this.ask({ finish: {} }));
  }

  close() {
    this.call?.end();
    this.client?.close();
  }

  /** Send one row, and return its reply. */
  async ask(kind) {
    if (!this.call) await this.open(kind);
    return this.exchange(kind);
  }

  /** Open a stream, and go on with the run if it has begun. */
  async open(kind) {
    this.connect();
    this.call = this.client.Control(this.metadata);
    this.call.on("data", (reply) => this.settle?.resolve(reply.rows[0]));
    this.call.on("error", (error) => this.settle?.reject(fault(error)));
    this.call.on("end", () => this.settle?.reject(new Lost("the server ended the stream")));
    if (this.resume && !kind.start) {
      const resume = this.resume.step > 0 ? this.resume : undefined;
      await this.exchange({ start: { goal: this.goal, resume } });
      // A robot that moved on meanwhile also sends { set_goal: { goal: this.goal } }, and so gets a new plan.
      console.error(`goes on at ${this.addresses[0]} with step ${this.resume.step}`);
    }
  }

  async exchange(kind) {
    const silence = setTimeout(() => this.call.cancel(), SILENCE_MS);
    const reply = await new Promise((resolve, reject) => {
      this.settle = { resolve, reject };
      this.call.write({ rows: [{ robot: this.robot, ...kind }] });
    }).finally(() => {
      this.settle = null;
      clearTimeout(silence);
    });
    const refusal = reply.refusal;
    // A server keeps the robot for its broken stream until it notices.
    if (refusal?.reason === "RobotLeased" && kind.start?.goal.resolved) throw new Lost(refusal.message);
    if (refusal) throw new Refused(`${refusal.reason}: ${refusal.message}`);
    return reply[reply.kind];
  }

  connect() {
    this.client?.close();
    const ca = process.env.RPL_CA && fs.readFileSync(process.env.RPL_CA);
    this.client = new RelayPolicy(this.addresses[0], ca ? grpc.credentials.createSsl(ca) : grpc.credentials.createInsecure());
  }

  /** The answer of `ask`, which is asked again, at the next address, while no server answers. */
  async persist(ask) {
    for (let tries = 0, began = performance.now(); ; tries++) {
      try {
        return await ask();
      } catch (error) {
        if (!(error instanceof Lost) || performance.now() - began > PATIENCE_MS) throw error;
        if (tries === 0) console.error(`${this.addresses[0]}: ${error.message}; tries again for ${PATIENCE_MS / 1000} s`);
        this.call?.cancel();
        this.call = null;
        this.addresses.push(this.addresses.shift());
        await sleep(100);
      }
    }
  }
}

/** The error of a call that ended with a status. */
function fault(error) {
  const { UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED } = grpc.status;
  if ([UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED].includes(error.code)) return new Lost(error.details);
  return new Refused(`${error.metadata?.get("rpl-reason")[0] ?? grpc.status[error.code]}: ${error.details}`);
}

async function main([addresses, elements, steps = "280"]) {
  const run = new Run(addresses.split(","), "node-1");
  try {
    const spec = await run.describe();
    const robot = new Robot(spec);
    const state = robot.observe();
    const { horizon } = await run.start({ elements: { names: elements.split(",") } }, state);
    console.error(`${spec.name}: a subgoal every ${horizon} steps of ${spec.period_s} s`);
    let due = performance.now();
    for (let step = 0; step < Number(steps); step++) {
      const state = robot.observe();
      const action = await run.step(state);
      if (process.hrtime.bigint() < BigInt(action.valid_until_ns)) robot.apply(action.target);
      else console.error(`step ${step}: the action came too late; the robot stays where it is`);
      console.log(JSON.stringify({ step, state, target: action.target, age: action.age }));
      due = Math.max(due + 1000 * spec.period_s, performance.now());
      await sleep(due - performance.now());
    }
    const { steps: made } = await run.finish();
    console.error(`${made} steps`);
  } finally {
    run.close();
  }
}

if (process.argv.length < 4) {
  console.error("usage: node client.js ADDRESS[,ADDRESS...] ELEMENT[,ELEMENT...] [STEPS]");
  process.exitCode = 2;
} else {
  main(process.argv.slice(2)).catch((error) => {
    console.error(error instanceof Refused || error instanceof Lost ? error.message : error.stack);
    process.exitCode = error instanceof Lost ? 4 : 1;
  });
}
