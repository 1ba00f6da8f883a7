// A receiver that verifies webhooks with the libraries of GitHub and Stripe. It prints its port.
//
//   node signatures.mjs GITHUB_SECRET STRIPE_SECRET

import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { Webhooks, createNodeMiddleware } from "@octokit/webhooks";
import Stripe from "stripe";

const [githubSecret, stripeSecret] = process.argv.slice(2);
// A request with another secret is a part of the check.
const none = () => {};
const log = { debug: none, info: none, warn: none, error: none };
const webhooks = new Webhooks({ secret: githubSecret, log });
webhooks.onAny(({ id, name, payload }) => {
  if (name !== payload.type || !id.startsWith("evt_")) throw new Error(`${id} ${name}`);
});
const github = createNodeMiddleware(webhooks, { path: "/github" });
const stripe = new Stripe("sk_test_unused");

const server = createServer(async (request, response) => {
  if (await github(request, response)) return;
  try {
    const signature = request.headers["stripe-signature"];
    const event = stripe.webhooks.constructEvent(await text(request), signature, stripeSecret);
    response.writeHead(event.type === "test" ? 204 : 422).end();
  } catch (error) {
    response.writeHead(401).end(String(error));
  }
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
