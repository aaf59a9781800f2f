import type { DeserializeOptions, Document } from "bson";

/** What the step's look-ups found for a document, by their names. */
export type Found = Record<string, Document[]>;

/** What a document becomes; nothing leaves it as it is. Must depend on nothing but its arguments. */
export type Transform = (
  document: Document,
  found: Found,
) => Document | null | undefined | void | Promise<Document | null | undefined | void>;

/** How numbers are given to the function: `promoteValues: false` gives `Double`, `Int32` and `Long`. */
export type Options = Pick<DeserializeOptions, "promoteValues" | "promoteLongs" | "useBigInt64">;

/** Ends the upgrade; thrown by `refuse`. */
export class Refused extends Error {}

/** Answers the gate, which started this program: calls the function for each document, until the input ends. */
export function transform(transform: Transform, options?: Options): Promise<void>;

/** Ends the upgrade with a reason, which the operator reads: it must hold no contents of the document. */
export function refuse(reason: string): never;

/** Counts for the report, under a name that the step declares. */
export function count(name: string, n?: number): void;

/** Adds a document to a collection. Its `_id` must be the same whenever it is computed from the same input. */
export function insert(collection: string, document: Document): void;

/** Deletes the document; whatever else the function makes of it then does not matter. */
export function deleteDocument(): void;

/** What the program answers to one message of the gate: for tests. */
export function answer(transform: Transform, message: Uint8Array, options?: Options): Promise<Document>;
