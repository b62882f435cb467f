// armddk.h - the processor-specific part of mingw-w64's wdm.h for arm64, as far as driver/wdm needs it.
#pragma once

#define SharedUserData (reinterpret_cast<KUSER_SHARED_DATA*>(0xFFFFF78000000000))

#define InterlockedCompareExchange _InterlockedCompareExchange
#define InterlockedDecrement _InterlockedDecrement
#define InterlockedExchange _InterlockedExchange
#define InterlockedExchangeAdd _InterlockedExchangeAdd
#define InterlockedIncrement _InterlockedIncrement
