// Plays one scenario of posthog-node and tells on stdout, one JSON object a line:
//   {"answer": {"path": "/batch/", "status": 503, "retryAfter": "5"}}  every answer, as the SDK's own fetch saw it
//   {"result": …}                                                      what the scenario returned; the last line
//
// Usage: node scenarios.mjs SCENARIO HOST TOKEN

import { PostHog } from "posthog-node";

const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** The global fetch, with every answer told. */
async function fetchAndTell(url, options) {
  const answer = await fetch(url, options);
  const { status, headers } = answer;
  tell({ answer: { path: new URL(url).pathname, status, retryAfter: headers.get("retry-after") } });
  return answer;
}

/** A client that flushes only when told to; errors that the SDK reports land in `client.errors`. */
function connect(host, token, options = {}) {
  const client = new PostHog(token, {
    host,
    flushAt: 100,
    flushInterval: 0,
    fetchRetryDelay: 200,
    fetchRetryCount: 50,
    fetch: fetchAndTell,
    ...options,
  });
  client.errors = [];
  client.on("error", (error) => client.errors.push(error.status ?? String(error)));
  return client;
}

const scenarios = {
  /** Five events wait in the queue; the shutdown sends them as one batch. */
  async shutdownFlush(host, token) {
    const client = connect(host, token);
    for (let number = 0; number < 5; number += 1) {
      client.capture({ distinctId: "nora", event: "node counted", properties: { number } });
    }
    client.identify({ distinctId: "nora", properties: { plan: "free" } });
    client.groupIdentify({ groupType: "company", groupKey: "acme", properties: { size: 3 } });
    client.alias({ distinctId: "nora", alias: "nora@example.com" });
    await client.shutdown();
    return { errors: client.errors };
  },

  /** Serverless style: the call itself resolves when the event is delivered. */
  async captureImmediate(host, token) {
    const client = connect(host, token);
    await client.captureImmediate({ distinctId: "nora", event: "node immediate", properties: { step: 1 } });
    await client.shutdown();
    return { errors: client.errors };
  },

  async remoteFlags(host, token) {
    const client = connect(host, token);
    const flags = await client.getAllFlags("nora", { personProperties: { plan: "free" } });
    await client.shutdown();
    return { flags, errors: client.errors };
  },

  async localFlags(host, token) {
    const client = connect(host, token, { personalApiKey: "phx_secret", featureFlagsPollingInterval: 60_000 });
    const ready = await client.waitForLocalEvaluationReady(10_000);
    const flags = await client.getAllFlags("nora", { onlyEvaluateLocally: true });
    await client.shutdown();
    return { ready, flags, errors: client.errors };
  },

  /** One event, sent again every 200 ms until an answer takes it. */
  async captureUntilTaken(host, token) {
    const client = connect(host, token);
    client.capture({ distinctId: "nora", event: "node patient" });
    await client.shutdown();
    return { errors: client.errors };
  },

  /** Four events of 8 KB each; sent uncompressed, so that a body limit between 16 and 32 KB halves the batch. */
  async captureBigBatch(host, token) {
    const client = connect(host, token, { disableCompression: true });
    for (let number = 0; number < 4; number += 1) {
      client.capture({ distinctId: "nora", event: "node big", properties: { number, ballast: "x".repeat(8_000) } });
    }
    await client.shutdown();
    return { errors: client.errors };
  },

  /** One event that no batch can be small enough for, then one that fits. */
  async captureTooLarge(host, token) {
    const client = connect(host, token, { disableCompression: true });
    await client.captureImmediate({
      distinctId: "nora",
      event: "node too large",
      properties: { ballast: "x".repeat(80_000) },
    });
    await client.captureImmediate({ distinctId: "nora", event: "node small" });
    await client.shutdown();
    return { errors: client.errors };
  },
};

const [name, host, token] = process.argv.slice(2);
tell({ result: await scenarios[name](host, token) });
