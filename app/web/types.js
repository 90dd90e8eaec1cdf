/** The documents of the API, as far as the page reads them. docs/api.md describes them. */

/**
 * @typedef {object} Model
 * @property {string} id
 * @property {string} name
 * @property {"active" | "deprecated"} status
 * @property {string[]} aspectRatios
 * @property {string | null} defaultAspectRatio
 * @property {string[]} imageSizes
 * @property {string | null} defaultImageSize
 * @property {Record<string, Record<string, [number, number]>>} pixels
 * @property {string | null} outputType
 * @property {{max: number | null, byRole: Record<string, number> | null}} references
 * @property {boolean} googleSearch
 * @property {boolean} imageSearch
 * @property {"none" | "fixed" | "levels"} thinking
 * @property {string[]} thinkingLevels
 * @property {string | null} defaultThinkingLevel
 * @property {boolean} includeThoughts
 * @property {{searchQuery: number | null, image: Record<string, number>}} prices
 */

/**
 * @typedef {object} Limits
 * @property {number} referenceBytes
 * @property {number} referencesBytes
 * @property {number} referencePixels
 */

/** @typedef {{default: string, models: Model[], limits: Limits}} Models */

/**
 * @typedef {object} RequestBody Fields that are not set are absent, so that the API's defaults apply.
 * @property {string} prompt
 * @property {string} [model]
 * @property {string} [aspectRatio]
 * @property {string} [imageSize]
 * @property {boolean} [googleSearch]
 * @property {boolean} [imageSearch]
 * @property {string} [thinkingLevel]
 * @property {boolean} [includeThoughts]
 * @property {boolean} [includeDrafts]
 * @property {string} [outputFormat]
 * @property {number} [afterTurn]
 */

/** @typedef {"" | "character" | "object" | "style"} Role */

/** @typedef {{file: Blob, fileName: string, role: Role, name: string, type: string}} Reference */

/**
 * @typedef {object} Usage
 * @property {number} promptTokens
 * @property {number} outputTokens
 * @property {number} thoughtsTokens
 * @property {number} totalTokens
 * @property {number | null} estimatedCostUsd
 */

/**
 * @typedef {object} Grounding
 * @property {string[]} queries
 * @property {{title: string, uri: string}[]} sources
 * @property {{title: string, sourceUri: string, imageUri: string, domain: string}[]} imageSources
 * @property {string | null} searchSuggestionsHtml
 */

/**
 * @typedef {object} Picture A picture and what is known about it.
 * @property {Blob} blob
 * @property {string} prompt
 * @property {number} width
 * @property {number} height
 * @property {string} mimeType
 * @property {string | null} text
 * @property {string | null} [thoughts]
 * @property {string} model
 * @property {Usage | null} usage
 * @property {Grounding | null} grounding
 * @property {string[]} warnings
 * @property {number} [turn]
 */

/** @typedef {{url: string, mimeType: string, width: number, height: number}} LinkedImage */

/**
 * @typedef {object} GenerationRead The response to a request for an image.
 * @property {LinkedImage & {data?: string}} image
 * @property {string | null} text
 * @property {string} [thoughts]
 * @property {string} model
 * @property {Usage} usage
 * @property {Grounding | null} grounding
 * @property {string[]} warnings
 * @property {string} [chatId]
 * @property {number} [turn]
 */

/**
 * @typedef {object} ProblemRead
 * @property {string} code
 * @property {string} title
 * @property {number} status
 * @property {string} detail
 * @property {string | null} [text]
 * @property {Usage | null} [usage]
 */

/**
 * @typedef {object} TurnRead
 * @property {number} turn
 * @property {"succeeded" | "refused" | "failed"} state
 * @property {string} prompt
 * @property {(LinkedImage & {name: string | null})[]} references
 * @property {string} model
 * @property {LinkedImage | null} image
 * @property {string | null} text
 * @property {Grounding | null} grounding
 * @property {Usage | null} usage
 * @property {string[]} warnings
 * @property {ProblemRead | null} problem
 * @property {number | null} replacedBy
 */

/**
 * @typedef {object} ChatSummary
 * @property {string} id
 * @property {string | null} title
 * @property {string} updatedAt
 * @property {number} lastTurn
 * @property {boolean} turnInProgress
 * @property {number} estimatedCostUsd
 */

/** @typedef {ChatSummary & {turns: TurnRead[]}} ChatRead */

/**
 * @typedef {object} RecordedRead A recorded generation.
 * @property {string} id
 * @property {"queued" | "running" | "succeeded" | "failed" | "cancelled" | "interrupted"} status
 * @property {string} createdAt
 * @property {Partial<GenerationRead> & {data?: unknown[]}} [result] `data` if the OpenAI routes made it.
 * @property {ProblemRead} [problem]
 */

export {};
